"""Reads the players and stages of any JAX model from its trace."""
