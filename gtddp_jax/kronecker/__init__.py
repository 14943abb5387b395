"""Kronecker-factored curvature: statistics, eigenbases, damping and cooperation (DESIGN §5)."""
