"""Properties of all games on random networks, batches, options and dtypes.

    python -m tests.properties --cases 10000 --seed 0 --shard 1/8

A *world* is a network with options and a dtype, compiled once. A *case* is a world with its own
parameters and batch. The seed and the index of a world determine its numbers, independently of the
shards; `--only INDEX` repeats one world.
"""
