"""Every transformation of optax as a base of both games: it works, or it is refused by name."""

import inspect
import types
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.default_run import quick_cases
from tests.implicit import models
from tests.robustness.composition.games import GAMES, NET, Game, batch

each_game = pytest.mark.parametrize("game", GAMES, ids=lambda game: game.name)
contrib: Any = optax.contrib


def always(step: Any, *_: Any, **__: Any) -> Any:
    """Every step is taken."""
    del step
    return True


def not_second(step: Any, *_: Any, **__: Any) -> Any:
    """The second step is left out."""
    return step != 1


RATE = optax.scale(-0.05)

BUILT: dict[str, Any] = {
    # What no default builds, or what is no optimizer by itself.
    "add_decayed_weights": optax.chain(optax.add_decayed_weights(0.1), RATE),
    "add_noise": optax.chain(optax.add_noise(1e-3, 0.5, key=0), RATE),
    "adaptive_grad_clip": optax.chain(optax.adaptive_grad_clip(0.1), RATE),
    "apply_every": optax.chain(RATE, optax.apply_every(2)),
    "apply_if_finite": optax.apply_if_finite(optax.sgd(0.05), 3),
    "clip": optax.chain(optax.clip(0.1), RATE),
    "clip_by_block_rms": optax.chain(optax.clip_by_block_rms(0.1), RATE),
    "clip_by_global_norm": optax.chain(optax.clip_by_global_norm(0.1), RATE),
    "conditionally_mask": optax.conditionally_mask(optax.sgd(0.05), not_second),
    "conditionally_transform": optax.conditionally_transform(optax.scale(-0.05), always),
    "ema": optax.chain(optax.ema(0.9), RATE),
    "inject_hyperparams": optax.inject_hyperparams(optax.adam)(optax.constant_schedule(0.05)),
    "keep_params_nonnegative": optax.chain(optax.sgd(0.05), optax.keep_params_nonnegative()),
    "lookahead": optax.lookahead(optax.sgd(0.05), 5, 0.5),
    "masked": optax.masked(optax.sgd(0.05), lambda params: jax.tree.map(lambda _: True, params)),
    "scale_by_backtracking_linesearch": optax.chain(
        optax.sgd(0.05), optax.scale_by_backtracking_linesearch(5)
    ),
    "scale_by_zoom_linesearch": optax.chain(optax.sgd(0.05), optax.scale_by_zoom_linesearch(5)),
    "lbfgs, no search": optax.lbfgs(0.05, linesearch=None),
    "polyak_sgd": optax.polyak_sgd(0.05),
    "noisy_sgd": optax.noisy_sgd(0.05, key=0),
    "scale_by_distance_over_gradients": optax.chain(optax.scale_by_distance_over_gradients(), RATE),
    "scale_by_stddev": optax.chain(optax.scale_by_stddev(), RATE),
    "scale_by_trust_ratio": optax.chain(optax.scale_by_trust_ratio(), RATE),
    "trace": optax.chain(optax.trace(0.9), RATE),
    "zero_nans": optax.chain(optax.zero_nans(), RATE),
    "differentially_private_aggregate": contrib.differentially_private_aggregate(1.0, 0.1, key=0),
    "mechanize": contrib.mechanize(optax.sgd(0.05)),
    "reduce_on_plateau": optax.chain(optax.sgd(0.05), contrib.reduce_on_plateau(patience=1)),
    "sam": contrib.sam(optax.sgd(0.05), optax.chain(contrib.normalize(), optax.sgd(0.05))),
    "sam, opaque": contrib.sam(
        optax.sgd(0.05), optax.chain(contrib.normalize(), optax.sgd(0.05)), opaque_mode=True
    ),
    "schedule_free": contrib.schedule_free(optax.sgd(0.05), 0.05),
    "split_real_and_imaginary": contrib.split_real_and_imaginary(optax.sgd(0.05)),
}


def _with_defaults() -> dict[str, Any]:
    """Public functions of optax that make an optimizer from its defaults or from a rate."""
    found: dict[str, Any] = {}
    for name, make in [*vars(optax).items(), *vars(contrib).items()]:
        # A `scale_by_` transformation is the part of an optimizer of that name.
        if name in BUILT or name.startswith(("_", "scale_by_")):
            continue
        if not isinstance(make, types.FunctionType):
            continue
        required = [
            parameter.name
            for parameter in inspect.signature(make).parameters.values()
            if parameter.default is parameter.empty
        ]
        if required not in ([], ["learning_rate"]) or "Gradient" not in str(
            make.__annotations__.get("return", "")
        ):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            tx = make(*(0.05 for _ in required))
        is_part = name in ("centralize", "normalize")
        found[name] = optax.chain(tx, RATE) if is_part else tx
    return found


BASES = BUILT | _with_defaults()
REFUSED = {
    "apply_every": r"optax\.apply_every cannot be used in the base: it accumulates",
    "lookahead": r"optax\.lookahead cannot.*incremental_update",
    "scale_by_backtracking_linesearch": r"backtracking_linesearch cannot.*linesearch=None",
    "scale_by_zoom_linesearch": r"zoom_linesearch cannot.*linesearch=None",
    "lbfgs": r"zoom_linesearch cannot.*linesearch=None",
    "differentially_private_aggregate": r"private_aggregate cannot.*one gradient per sample",
    "sam": r"contrib\.sam cannot.*steps up and down",
    "sam, opaque": r"contrib\.sam cannot.*steps up and down",
    "sophia": r"needs obj_fn, which only you can give.*obj_fn=\.\.\.",
}


def test_the_table_is_long() -> None:
    """The search by signature finds what it should."""
    assert {"adam", "lion", "muon", "prodigy", "momo", "dadapt_adamw", "sophia"} < set(BASES)
    assert len(BASES) > 60 and set(BASES) >= QUICK


QUICK = {*REFUSED, "adam", "lion", "muon", "momo", "schedule_free", "rprop"}
"""Names of which a kind each belongs to the default run."""

CASES = [
    # The second game shares the code.
    pytest.param(game, name, marks=[] if name in QUICK else [pytest.mark.slow])
    for game in GAMES
    for name in sorted(BASES if game.name == "implicit" else QUICK)
]


@pytest.mark.parametrize(("game", "name"), CASES)
def test_a_base_works_or_is_refused_by_name(game: Game, name: str) -> None:
    params, tx = game.params(), game.build(BASES[name])

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        updates, state = tx.update(None, state, params, batch=batch())
        return optax.apply_updates(params, updates), state

    if name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]):
            jax.eval_shape(lambda params: step(params, tx.init(params)), params)
        return
    state = jax.jit(tx.init)(params)
    # The arithmetic of optax itself promotes ranks.
    with jax.numpy_rank_promotion("allow"):
        after, state = step(*step(params, state))
    assert state.report.skipped_steps == 0
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


@each_game
@pytest.mark.parametrize(
    "name", quick_cases(["polyak_sgd", "momo", "momo_adam", "reduce_on_plateau"])
)
def test_the_value_is_the_mean_loss(name: str, game: Game) -> None:
    """A step without predictions equals that of optax, which gets the loss by hand."""
    base, params, (x, y) = BASES[name], game.params(), batch()
    off: dict[str, Any] = (
        {"strength": 0.0} if game.name == "implicit" else {"equilibrium": "open_loop"}
    )
    tx = game.build(base, **off)
    got, state = tx.update(None, tx.init(params), params, batch=(x, y))
    apply_fn: Any = models.mlp if game.name == "implicit" else NET.apply
    value, gradient = jax.value_and_grad(lambda q: models.cross_entropy(apply_fn(q, x), y).mean())(
        params
    )
    # A stage of the sequential game has a base of its own.
    parts = [params] if game.name == "implicit" else [{name: params[name]} for name in params]
    want: dict[str, Any] = {}
    for part in parts:
        own = {name: gradient[name] for name in part}
        want |= base.update(own, base.init(part), part, value=value)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), got, want)
    np.testing.assert_allclose(state.report.loss, value, rtol=1e-6)


def seen_arguments(seen: dict[str, Any]) -> Any:
    """SGD that keeps the arguments it receives."""

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        # A base is traced as well as called, and only a callback sees numbers.
        jax.debug.callback(seen.update, {**extra_args, "updates": updates})
        return jax.tree.map(lambda g: -0.1 * g, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


@each_game
def test_arguments_of_a_base(game: Game) -> None:
    """`value` and `grad` come from the game; what the user passes comes first."""
    seen: dict[str, Any] = {}
    params, tx = game.params(), game.build(seen_arguments(seen))
    _, state = tx.update(None, tx.init(params), params, batch=batch())
    jax.effects_barrier()
    np.testing.assert_allclose(seen["value"], state.report.loss, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, seen["grad"], seen["updates"])
    tx.update(None, state, params, batch=batch(), value=3.0, epoch=7)
    jax.effects_barrier()
    assert (seen["value"], seen["epoch"]) == (3.0, 7)
