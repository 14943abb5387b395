"""The command ``gtddp``.

A package beside ``gtddp_jax``, not inside it, because importing that imports jax: here, nothing does
before the command line has been read and found right, so ``--help`` and errors come at once.
"""
