"""Studies that repeat the paper's training runs: Table 2, Fig. 6a, 6b and 8."""
