"""What all parts share: types, sums over samples, safety, reports, checks of arguments."""
