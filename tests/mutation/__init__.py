"""Mutation run: change one operation of the mathematics at a time and see whether a test fails.

    python -m tests.mutation --count 120 --seed 0 --results build/mutants.jsonl

The mutants of the folders in `selection.py` are sampled by the seed, evenly over the folders. Each
runs in a copy of the repository, first against a few quick tests of its folder, then against more.
A mutant that no test kills is printed with its place and its change. A run that was stopped goes
on where it stopped; `--list` shows the sample without running it.

General tools swap operators too, but neither know operations such as `where` and `stop_gradient`,
nor share imports and compiled programs between mutants, which are most of the time here.
"""
