"""Run by test_devices.py with four virtual devices; prints a line per parallelism and game.

The padding is spread unevenly: one device has no other samples, one has none.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.robustness.samples.games import GAMES, IMAGES, LABELS, cross_entropy, initial_params
from tests.robustness.samples.test_mask_recipes import LOSSES
from tests.sequential.devices_script import DEVICES, Devices, distance

KEEP = np.array([False, False, True, True, True, False, True, True])
NAMES = ("sketch", "sgd, gradient model", "kfac, joint", "ekfac, per example")


def compare(name: str) -> None:
    devices, game = Devices(), GAMES[name]
    params = initial_params(game.net)
    x, labels = jnp.asarray(IMAGES[: len(KEEP)]), jnp.asarray(LABELS[: len(KEEP)])

    def build(axis_name: Any = None) -> Any:
        loss = LOSSES["masked_samples_over_devices"] if axis_name else LOSSES["masked_samples"]
        return game.build(game.net, loss, axis_name=axis_name)

    def alone(axis_name: Any = None) -> Any:
        return game.build(game.net, cross_entropy, axis_name=axis_name)

    start = (params, build().init(params))
    want, memory = devices.one(alone, start, (x[KEEP], labels[KEEP]))
    report = memory.report
    assert report.sample_weight_max - report.sample_weight_min > 1e-3, name
    for way in (devices.pmap, devices.shard_map, devices.sharded_jit):
        got, state = way(build, start, (x, (labels, jnp.asarray(KEEP))))
        error = distance(got, want)
        same = jax.tree.map(
            lambda a, b: bool(np.allclose(a, b, rtol=1e-5, atol=1e-6)), state.report, report
        )
        fine = error < 1e-9 and all(jax.tree.leaves(same))
        print(f"{way.__name__}, {name}: {'equal' if fine else f'differ by {error:.1e}, {same}'}")


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)  # all runs a few times only
    assert len(KEEP) == 2 * DEVICES
    for name in NAMES:
        compare(name)


if __name__ == "__main__":
    main()
