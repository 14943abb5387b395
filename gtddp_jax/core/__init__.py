"""What the sequential and the implicit game share: sums over samples, safety, reports."""
