"""Properties of both games on random networks, batches, options and dtypes.

    python -m tests.properties --cases 10000 --seed 0 --shard 1/8

A *world* is a network with options and a dtype, compiled once; a *case* is a world with parameters
and a batch of its own. The numbers of a world follow from the seed and its index alone, whatever
the shards: `--only INDEX` plays one again.
"""
