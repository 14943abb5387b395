"""The command ``gtddp``.

No module imports JAX before the command line has been read and checked, so ``--help`` and error
messages appear at once.
"""
