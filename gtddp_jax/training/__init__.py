"""Training runs that compare a base optimizer with its GT-DDP form, paired by seed.

Needs the extra ``train``: ``pip install "gtddp-jax[train]"``. One module per idea: ``data`` (what
is learned), ``networks`` (what learns), ``methods`` and ``steps`` (what trains it), ``loop`` (how),
``experiment`` (which of these together), ``summary``, ``results`` and ``plots`` (what came out).
"""
