"""The joint game beside Adam and L-BFGS on differential equations."""
