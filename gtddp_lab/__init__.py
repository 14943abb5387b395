"""Experiments with `gtddp_jax`: the command `gtddp` and everything that trains, measures or draws.

Importing this package does not import JAX, so that `gtddp --help` answers at once.
"""
