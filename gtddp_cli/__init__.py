"""The command ``gtddp``.

A package beside ``gtddp_jax``, not inside it, because importing that imports jax. Here nothing does
so before the command line has been read and found right: ``--help`` and errors come at once.
"""
