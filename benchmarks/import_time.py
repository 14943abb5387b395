"""Time of `import gtddp_jax` beyond the libraries that it imports.

Each import runs in new processes. The minimum over several processes is printed, in seconds of
processor time and of wall-clock time; on a busy machine, wall-clock time is not reliable.

    python benchmarks/import_time.py [REPEATS]
"""

import subprocess
import sys

IMPORTS = {
    "jax": "import jax",
    "jax, flax, optax": "import jax, flax.linen, optax",
    "gtddp_jax": "import gtddp_jax",
}
TIMED_SCRIPT = """
import time
wall, processor = time.perf_counter(), time.process_time()
{statement}
print(time.process_time() - processor, time.perf_counter() - wall)
"""


def time_statement(statement: str) -> tuple[float, float]:
    """Processor and wall-clock time of a statement in a new process."""
    completed = subprocess.run(
        [sys.executable, "-c", TIMED_SCRIPT.format(statement=statement)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    processor, wall = map(float, completed.stdout.split())
    return processor, wall


def time_all_imports() -> dict[str, tuple[float, float]]:
    """Times of every import, measured once."""
    return {name: time_statement(statement) for name, statement in IMPORTS.items()}


def main(repeats: int = 7) -> None:
    """Prints a table. The imports take turns, so that a busy minute affects all of them alike."""
    time_all_imports()  # fills the file system's cache
    rounds = [time_all_imports() for _ in range(repeats)]
    processor = {name: min(times[name][0] for times in rounds) for name in IMPORTS}
    wall = {name: min(times[name][1] for times in rounds) for name in IMPORTS}
    print(f"{'import':20}  {'processor s':>11}  {'wall s':>7}")
    for name in IMPORTS:
        print(f"{name:20}  {processor[name]:11.3f}  {wall[name]:7.3f}")
    for base in ("jax", "jax, flax, optax"):
        processor_gap = processor["gtddp_jax"] - processor[base]
        wall_gap = wall["gtddp_jax"] - wall[base]
        print(f"{'beyond ' + base:20}  {processor_gap:11.3f}  {wall_gap:7.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
