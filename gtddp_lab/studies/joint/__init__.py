"""The joint game beside other optimizers on differential equations and data."""
