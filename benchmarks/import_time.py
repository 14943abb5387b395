"""How long `import gtddp_jax` takes beyond the libraries that it stands on.

Each import runs in processes of its own; the least of several is printed, in seconds of processor
time and of wall-clock time. The wall-clock time of a busy machine says little.

    python benchmarks/import_time.py [REPEATS]
"""

import subprocess
import sys

IMPORTS = {
    "jax": "import jax",
    "jax, flax, optax": "import jax, flax.linen, optax",
    "gtddp_jax": "import gtddp_jax",
}
TIMED = """
import time
wall, processor = time.perf_counter(), time.process_time()
{statement}
print(time.process_time() - processor, time.perf_counter() - wall)
"""


def seconds(statement: str) -> tuple[float, float]:
    """Processor and wall-clock time of a statement in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", TIMED.format(statement=statement)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    processor, wall = map(float, done.stdout.split())
    return processor, wall


def main(repeats: int = 7) -> None:
    """Prints a table; the cases take turns, so that a busy minute spoils none of them alone."""
    rounds = [{name: seconds(statement) for name, statement in IMPORTS.items()}]
    rounds += [{n: seconds(s) for n, s in IMPORTS.items()} for _ in range(repeats)]
    best = {n: tuple(min(r[n][i] for r in rounds[1:]) for i in (0, 1)) for n in IMPORTS}
    print(f"{'import':20}  {'processor s':>11}  {'wall s':>7}")
    for name, (processor, wall) in best.items():
        print(f"{name:20}  {processor:11.3f}  {wall:7.3f}")
    for below in ("jax", "jax, flax, optax"):
        processor, wall = (best["gtddp_jax"][i] - best[below][i] for i in (0, 1))
        print(f"{'beyond ' + below:20}  {processor:11.3f}  {wall:7.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
