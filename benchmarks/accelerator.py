"""The implicit game on an accelerator, in float32 and bfloat16, as a table for docs/performance.md.

    python benchmarks/accelerator.py [--rounds N] [--only TEXT] [--batch-factor N]

Protocol: one device that does nothing else, its clocks as they are; the table names the device and
the versions. Steps run in turns, each for at least 50 ms a round, and every ratio is the median
over rounds of the ratio within a round. Models are those of benchmarks/implicit.py, with Adam; a
batch that keeps a processor busy may leave an accelerator idle, so `--batch-factor` enlarges all.
"""

import argparse
from typing import Any

import implicit
import jax
import jax.numpy as jnp
import optax

import gtddp_jax as gt

COLUMNS = list(implicit.COLUMNS)
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def in_dtype(case: implicit.Case, dtype: Any, batch_factor: int) -> implicit.Case:
    """The case with parameters and real data in a dtype, and its batch several times."""

    def cast(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    batch = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * batch_factor), case.batch)
    return case._replace(params=jax.tree.map(cast, case.params), batch=jax.tree.map(cast, batch))


def main() -> None:
    """Print the device, the versions and a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--only", default="", help="models whose name contains this text")
    parser.add_argument("--batch-factor", type=int, default=1)
    options = parser.parse_args()
    versions = f"jax {jax.__version__}, optax {optax.__version__}, gtddp_jax {gt.__version__}"
    print(f"{jax.devices()[0].device_kind}, {versions}, batches times {options.batch_factor}\n")
    print(f"| model | dtype | plain step | {' | '.join(COLUMNS)} | memory, sketch |")
    print("|---" * (len(COLUMNS) + 4) + "|")
    for name, make in implicit.CASES.items():
        for dtype_name, dtype in DTYPES.items():
            if options.only not in name:
                continue
            case = in_dtype(make(), dtype, options.batch_factor)
            plain_ms, ratios = implicit.measure(case, "adam", COLUMNS, options.rounds)
            times = " | ".join(f"{ratios[column].time:.2f}" for column in COLUMNS)
            memory = ratios["sketch"].memory
            print(
                f"| {name} | {dtype_name} | {plain_ms:.3f} ms | {times} | {memory:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
