"""Run by test_devices.py with four virtual devices: prints a line for each way that agrees."""

import functools

import jax

import gtddp_jax as gt
from tests.sequential import zoo
from tests.sequential.devices_script import DEVICES, Build, Devices, distance

LOSS = zoo.LOSSES["squared"]
PERIODS = {"factors_every": 1, "refresh_every": 2}
WINDOW = {"full_limit": 2, "window_rows": 2 * DEVICES}


def compare(label: str, p: zoo.Problem, build: Build) -> None:
    """Parameters only: eigenvectors are known up to their signs."""
    devices = Devices()
    start, batch = (p.params, build().init(p.params)), (p.x, p.y)
    want, _ = devices.one(build, start, batch)
    for way in (devices.pmap, devices.shard_map, devices.sharded_jit):
        got, state = way(build, start, batch)
        error = distance(got, want)
        verdict = "equal" if error < 1e-9 and not state.report.skipped else f"differ by {error:.1e}"
        print(f"{way.__name__}, {label}: {verdict}")


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)  # all runs a few times only
    p = zoo.problem("tiny", batch=2 * DEVICES)
    common = {"learning_rate": 0.1, "damping": 0.1, **PERIODS}
    pair = functools.partial(gt.kfac, p.net, LOSS, cooperative="joint", **common)
    compare("kfac, joint", p, pair)
    options = {"mode": "per_example", **common, **WINDOW}
    compare("ekfac, window", p, functools.partial(gt.ekfac, p.net, LOSS, **options))


if __name__ == "__main__":
    main()
