"""The command line, described in `__init__.py`."""

import argparse
import difflib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.mutation import selection
from tests.mutation.mutants import Mutant, find_mutants
from tests.mutation.sandbox import Sandbox, import_libraries


class Candidate(NamedTuple):
    """A mutant and the file that it changes."""

    path: str
    mutant: Mutant

    @property
    def label(self) -> str:
        """The same for the same change of the same text."""
        mutant = self.mutant
        return f"{self.path}:{mutant.line}:{mutant.start}-{mutant.stop} {mutant.new}"

    @property
    def original(self) -> str:
        return (selection.ROOT / self.path).read_text(encoding="utf-8")

    def diff(self) -> str:
        """The changed lines."""
        before, after = self.original, self.mutant.apply(self.original)
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
        return "\n".join(line for line in lines if line[:3] not in ("---", "+++"))


def sample(count: int, seed: int, only: str) -> list[Candidate]:
    """Mutants in random order, taken from the folders in turn."""
    by_folder: dict[str, list[Candidate]] = {}
    for path in selection.mutated_files():
        if only in path:
            text = (selection.ROOT / path).read_text(encoding="utf-8")
            found = [Candidate(path, mutant) for mutant in find_mutants(text)]
            by_folder.setdefault(selection.folder_of(path), []).extend(found)
    for candidates in by_folder.values():
        random.Random(seed).shuffle(candidates)
    longest = max(map(len, by_folder.values()), default=0)
    turns = [c[i] for i in range(longest) for c in by_folder.values() if i < len(c)]
    return turns[:count]


def check_unchanged(
    sandbox: Sandbox, path: str, checked: set[tuple[str, ...]], timeout: float
) -> None:
    """Stop unless the quick tests of a file pass without a mutant, or none could be judged."""
    tests = selection.quick_tests(path)
    if tests not in checked:
        source = (selection.ROOT / path).read_text(encoding="utf-8")
        result, output = sandbox.run(path, source, tests, timeout)
        if result != "passed":
            raise SystemExit(f"{output}\n{path}: its tests fail without a mutant ({result}).")
        checked.add(tests)


def judge(sandbox: Sandbox, candidate: Candidate, timeout: float, stages: range) -> dict[str, Any]:
    """Run the tests of some stages on a mutant; which of them, if any, killed it."""
    source = candidate.mutant.apply(candidate.original)
    outcome, seconds, start = "survived", 0.0, time.monotonic()
    groups = (selection.quick_tests(candidate.path), selection.more_tests(candidate.path))
    killer = ""
    for tests in groups[stages.start : stages.stop]:
        result, output = sandbox.run(candidate.path, source, tests, timeout)
        if result != "passed":
            outcome = "timeout" if result == "timeout" else "killed"
            lines = output.splitlines()
            killer = next((line for line in lines if line.startswith(("FAILED", "ERROR"))), "")
            break
    seconds = time.monotonic() - start
    return {
        "label": candidate.label,
        "kind": candidate.mutant.kind,
        "outcome": outcome,
        "killer": killer[:160],
        "stages": stages.stop,
        "seconds": round(seconds),
    }


def main() -> int:
    """Runs the mutants that have no result yet, then prints the survivors."""
    parser = argparse.ArgumentParser("python -m tests.mutation", description=__doc__)
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a part of the path of the mutated files")
    parser.add_argument("--results", type=Path, default=Path("build/mutants.jsonl"))
    parser.add_argument("--timeout", type=float, default=600, help="seconds of one run of tests")
    parser.add_argument("--stages", type=int, choices=(1, 2), default=2, help="1: quick tests only")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after these")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    candidates = sample(options.count, options.seed, options.only)
    if options.list:
        for candidate in candidates:
            print(f"{candidate.path}:{candidate.mutant.line}, {candidate.mutant.kind}")
            print(candidate.diff())
        return 0
    results = options.results
    results.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    import_libraries()
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "compiled"
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
        sandbox = Sandbox(Path(folder) / "copy")
        checked: set[tuple[str, ...]] = set()
        for candidate in candidates:
            # Read again each time, so that several of these processes may share the work.
            result = read_results(results).get(candidate.label)
            # A survivor of the quick tests alone goes on with the others.
            if result and (result["outcome"] != "survived" or result["stages"] >= options.stages):
                continue
            if time.monotonic() > end:
                break
            check_unchanged(sandbox, candidate.path, checked, options.timeout)
            stages = range(result["stages"] if result else 0, options.stages)
            result = judge(sandbox, candidate, options.timeout, stages)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
    return report(candidates, read_results(results))


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """By label, the last result of each mutant."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {result["label"]: result for result in map(json.loads, lines)}


def report(candidates: list[Candidate], known: dict[str, dict[str, Any]]) -> int:
    """Prints the survivors and the count; 1 if a mutant survived."""
    ran = [candidate for candidate in candidates if candidate.label in known]
    alive = [c for c in ran if known[c.label]["outcome"] == "survived"]
    for candidate in alive:
        print(f"{candidate.path}:{candidate.mutant.line} {candidate.mutant.kind}")
        print(candidate.diff())
    share = 100 * (len(ran) - len(alive)) / max(len(ran), 1)
    print(f"{len(ran)} of {len(candidates)} mutants ran, {share:.1f} % were killed.")
    return bool(alive)


if __name__ == "__main__":
    sys.exit(main())
