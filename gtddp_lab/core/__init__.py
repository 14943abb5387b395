"""What all parts of the lab share: lookup tables, files, JSON types, devices and processes."""
