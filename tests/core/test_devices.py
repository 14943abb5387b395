"""Four devices with a quarter of the batch each make the step of one device (DESIGN §8)."""

from gtddp_jax.game.rollout import ROLLOUTS
from tests.conftest import RunPython


def test_many_devices_equal_one(run_python: RunPython) -> None:
    cases = [f"{method}, {rollout}" for method in ("sgd", "adam") for rollout in ROLLOUTS]
    cases.append("recomputed gradients of convolutions")
    ways = ("pmap", "shard_map", "sharded_jit")
    result = run_python("-W", "error", "-m", "tests.core.devices_script", devices=4, timeout=300)
    assert result.returncode == 0, result.stderr
    want = [f"{way}, {case}: equal" for way in ways for case in cases]
    assert sorted(result.stdout.splitlines()) == sorted([*want, "local copies: equal"])
