"""Random worlds of the implicit game."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt
from tests.properties import parts, plans
from tests.properties.bases import Rng
from tests.properties.findings import Finding, distance
from tests.properties.parts import Case
from tests.properties.sequential import LOSSES_WITH_POSITIONS
from tests.sequential import zoo

Tree = Any
Build = Callable[[float], optax.GradientTransformation]
"""A base optimizer for a loss multiplied by s; the table in `bases.py` gives its numbers."""

BASES: dict[str, Build] = {
    "sgd": lambda s: optax.sgd(0.3 / s),
    "momentum": lambda s: optax.sgd(0.1 / s, momentum=0.9),
    "nesterov": lambda s: optax.sgd(0.1 / s, momentum=0.8, nesterov=True),
    "adam": lambda s: optax.adam(0.1, eps=1e-3 * s),
    "nadam": lambda s: optax.nadam(0.1, eps=1e-3 * s),
    "adamw": lambda s: optax.adamw(0.1, eps=1e-3 * s, weight_decay=0.1),
    "amsgrad": lambda s: optax.amsgrad(0.1, eps=1e-3 * s),
    "adamax": lambda s: optax.adamax(0.1, eps=1e-3 * s),
    "rmsprop": lambda s: optax.rmsprop(0.05, eps=1e-3 * s**2, momentum=0.5),
    "adagrad": lambda s: optax.adagrad(0.1, 0.1 * s**2, eps=1e-3 * s**2),
    "lamb": lambda s: optax.lamb(0.05, eps=1e-3 * s),
    "clipped": lambda s: optax.chain(optax.clip_by_global_norm(0.5 * s), optax.sgd(0.3 / s, 0.9)),
    "normalised": lambda s: optax.chain(
        optax.normalize_by_update_norm(eps=1e-6 * s), optax.sgd(0.3)
    ),
    "scheduled": lambda s: optax.adam(optax.cosine_decay_schedule(0.1, 10), eps=1e-3 * s),
}

WEIGHTINGS: dict[str, Callable[[Rng], Any]] = {
    "sketch": lambda rng: gt.weighting.Sketch(
        share=float(rng.choice([0.3, 1.0])), factors=str(rng.choice(["flow", "implicit"]))
    ),
    "full": lambda rng: gt.weighting.Full(factors=str(rng.choice(["flow", "implicit"]))),
    "exact": lambda rng: gt.weighting.Exact(form=str(rng.choice(["gram", "matrix_free"]))),
}


class World(parts.World):
    """A network, a base and options of `gt.implicit`; see `__init__.py`."""

    def __init__(self, seed: int, index: int) -> None:
        super().__init__(seed, index)
        rng = self.rng
        self.name = str(rng.choice(list(BASES)))
        self.weighting = WEIGHTINGS[str(rng.choice(list(WEIGHTINGS)))](rng)
        self.dtype = str(rng.choice(["float64", "float32", "bfloat16"], p=[0.75, 0.15, 0.1]))
        self.batch = int(rng.integers(1, 5))
        inputs = str(rng.choice(list(plans.INPUTS)))
        draw = plans.Draw(rng, inputs, generic=True, coupled=False)
        each = inputs != "flat" and rng.random() < 0.2
        self.plan = draw.network(most=4, each=each)
        losses = LOSSES_WITH_POSITIONS if each else list(zoo.LOSSES)
        # Without convexity there may be several solutions, between which rounding decides.
        is_precise = self.dtype == "float64"
        self.loss = str(rng.choice([name for name in losses if is_precise or name != "welsch"]))
        shift = [None, None, 1.0, 0.1][rng.integers(4)]
        self.terminal = [gt.terminal.ExactLoss(shift), gt.terminal.ProjectedHessian()][
            rng.random() < 0.2
        ]
        self.options = {
            "bounds": [None, (0.0, 10.0), (0.5, 2.0)][rng.integers(3)],
            "strength": float(rng.choice([1.0, 0.3])),
            "predict_momentum": bool(rng.random() < 0.7),
        }
        self.decay = float(rng.choice([0.0, 0.1]))
        self.by_players = bool(rng.random() < 0.6)
        self.problem = self.make_problem()
        self._one = jax.jit(self._program)
        self._twice = jax.jit(self._step)

    def __str__(self) -> str:
        fields = ("dtype", "batch", "loss", "terminal", "decay", "by_players", "options")
        return f"implicit, {self.name}, {self.weighting}, {self.describe(*fields)}"

    def _arguments(self, scale: Any, strength: float | None) -> tuple[tuple[Any, ...], Any]:
        net, plain = self.problem.net, zoo.LOSSES[self.loss]
        model = net if self.by_players else net.apply

        def loss(outputs: jax.Array, y: jax.Array) -> jax.Array:
            return scale * plain(outputs, y)

        options = dict(self.options) | {"weighting": self.weighting, "terminal": self.terminal}
        if strength is not None:
            options["strength"] = strength
        return (BASES[self.name](scale), model, loss), options

    def optimizer(self, scale: Any, strength: float | None = None) -> Any:
        """The library's game; with `strength=0.0` the base."""
        arguments, options = self._arguments(scale, strength)
        return gt.implicit(*arguments, **options)

    def init(self, scale: float) -> dict[str, Any]:
        """States before the first step."""
        params = self.problem.params
        return {
            "on": self.optimizer(scale).init(params),
            "off": self.optimizer(scale, 0.0).init(params),
            "optax": BASES[self.name](scale).init(params),
        }

    def _step(self, case: Case, states: Any, scale: Any) -> tuple[Tree, Any, jax.Array]:
        arguments, options = self._arguments(scale, None)
        running = self.running(case.params, scale)
        batch = (case.x, case.y)
        look = gt.implicit_weights(*arguments, **options)
        weights = look(states["on"], case.params, batch, running)
        tx: Any = gt.implicit(*arguments, **options)
        step, state = tx.update(running, states["on"], case.params, batch=batch)
        return step, state, weights

    def _program(
        self, case: Case, states: Any, scale: Any
    ) -> tuple[dict[str, Tree], dict[str, Any], jax.Array]:
        params, x, y = case
        running = self.running(params, scale)
        steps, after = {}, {}
        steps["on"], after["on"], weights = self._step(case, states, scale)
        off: Any = self.optimizer(scale, 0.0)
        steps["off"], after["off"] = off.update(running, states["off"], params, batch=(x, y))
        plain, net = zoo.LOSSES[self.loss], self.problem.net

        def losses(params: Tree) -> jax.Array:
            return scale * plain(net.apply(params, x), y)

        base = optax.with_extra_args_support(BASES[self.name](scale))
        gradient = jax.grad(lambda u: losses(u).mean())(params)
        gradient = jax.tree.map(jnp.add, gradient, running)
        steps["optax"], after["optax"] = base.update(gradient, states["optax"], params)
        if self.dtype == "float64":
            flat, unravel = ravel_pytree(params)
            big = jax.jacrev(lambda u: losses(unravel(u)))(flat)
            weighted = jax.tree.map(jnp.add, unravel(weights @ big / self.batch), running)
            steps["dense"], _ = base.update(weighted, states["on"].base, params)
        return steps, after, weights

    def cases(self, draws: int) -> Iterator[tuple[list[Finding], float]]:
        """The findings of each case, and the spread of its weights."""
        fresh = states = self.init(1.0)
        for number in range(draws):
            case, seed = self.draw_case(number)
            steps, after, weights = self._one(case, states, 1.0)
            findings = list(self._exact(steps, after))
            findings += self._permuted(case, states, steps, weights)
            findings += self._duplicated(case, states, steps, weights)
            findings += self._scaled(case, fresh, seed)
            yield findings, float(jnp.abs(weights - 1).max())
            states = after

    def _exact(self, steps: Any, after: Any) -> Iterator[Finding]:
        yield from self.taken(steps["on"], after["on"].report)
        name = "feedback off equals the base"
        yield self.found(name, distance(steps["off"], steps["optax"]))
        if "dense" in steps:
            yield self.found("fast equals dense", distance(steps["on"], steps["dense"]))

    def _permuted(
        self, case: Case, states: Any, steps: Any, weights: jax.Array
    ) -> Iterator[Finding]:
        if self.batch == 1:
            return
        got, _, found = self._one(case.rolled(), states, 1.0)
        yield self.found("permuted samples, same step", distance(got["on"], steps["on"]))
        yield self.found(
            "permuted samples, permuted weights", distance(found, jnp.roll(weights, 1))
        )

    def _duplicated(
        self, case: Case, states: Any, steps: Any, weights: jax.Array
    ) -> Iterator[Finding]:
        if self.batch == 1 and isinstance(self.weighting, gt.weighting.Sketch):
            return  # all parameters predict a single sample, those that can be read several
        got, _, found = self._twice(case.doubled(), states, 1.0)
        yield self.found("duplicated batch, same step", distance(got, steps["on"]))
        want = jnp.concatenate([weights] * 2)
        yield self.found("duplicated batch, same weights", distance(found, want))

    def _scaled(self, case: Case, fresh: Any, seed: int) -> Iterator[Finding]:
        """Two steps from the start, with the loss in other units."""
        s = float(2.0 ** np.random.default_rng(seed).integers(-3, 4))
        now = then = fresh
        if self.name == "adagrad":  # its state begins with a number in the units of the loss
            then = self.init(s)
        for _ in range(2):
            want, now, weights = self._one(case, now, 1.0)
            got, then, found = self._one(case, then, s)
            yield self.found("scaled loss, same base step", distance(got["off"], want["off"]))
            yield self.found("scaled loss, same step", distance(got["on"], want["on"]))
            yield self.found("scaled loss, same weights", distance(found, weights))
