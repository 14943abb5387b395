"""Training runs that compare a base optimizer with its GT-DDP forms, paired by seed.

Requires the extra ``train``: ``pip install -e ".[train]"``. The modules, from the bottom:
``settings``, ``methods`` and ``steps`` (what trains), ``loop`` and ``trainer`` (many steps on one
network and data set), ``runner`` and ``checkpoints`` (one run, from start or checkpoint to end),
``experiment`` (several runs compared), ``results``, ``logs`` and ``plots`` (what a run writes).
"""
