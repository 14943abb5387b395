"""Random worlds of the joint game."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt
from tests.joint.problems import Problem
from tests.properties import parts, plans
from tests.properties.findings import Finding, distance, upcast
from tests.properties.parts import Case
from tests.properties.sequential import LOSSES_WITH_POSITIONS
from tests.sequential import zoo

Tree = Any
FORMS = ("residual", "supervised", "losses")
"""How the network and the loss are given: by sample, by batch, or as a function of losses."""

B2, EPS = 0.9, 1e-3
"""Of the metric. Its eps is large, so that rounding decides nothing."""


class World(parts.World):
    """A network, a convex loss and options of `gt.joint`; see `__init__.py`."""

    def __init__(self, seed: int, index: int) -> None:
        super().__init__(seed, index)
        rng = self.rng
        self.dtype = str(rng.choice(["float64", "float32"], p=[0.8, 0.2]))
        self.batch = int(rng.integers(1, 5))
        self.form = str(rng.choice(FORMS))
        inputs = str(rng.choice(list(plans.INPUTS)))
        draw = plans.Draw(rng, inputs, generic=True, coupled=False)
        each = inputs != "flat" and rng.random() < 0.2
        self.plan = draw.network(most=3, each=each)
        losses = LOSSES_WITH_POSITIONS if each else list(zoo.LOSSES)
        self.loss = str(rng.choice([name for name in losses if name != "welsch"]))
        self.edge = int(rng.integers(0, 3)) if self.form != "losses" else 0
        self.damping = float(np.exp(rng.uniform(np.log(1e-2), 0.0)))
        self.decay = float(rng.choice([0.0, 0.1]))
        self.momentum = float(rng.choice([0.0, 0.5, 0.9]))
        self.has_metric = bool(rng.random() < 0.4)
        self.rate = float(rng.choice([1.0, 0.3]))
        self.options = {
            "side": str(rng.choice(["auto", "dual", "primal"])),
            "chunk": [None, 1, 2][rng.integers(3)],
            "newton_steps": 200,  # far from the minimum, losses with linear tails need many
        }
        self.problem = self.make_problem()
        self._one = jax.jit(self._program)
        self._twice = jax.jit(self._step)

    def __str__(self) -> str:
        fields = ("dtype", "batch", "form", "loss", "edge", "damping", "decay", "momentum")
        fields += ("has_metric", "rate", "options")
        return f"joint, {self.describe(*fields)}"

    def _outputs(self, params: Tree, sample: Any) -> jax.Array:
        return self.problem.net.apply(params, sample[0][None])[0]

    def _terms(self, scale: Any) -> dict[str, gt.Term]:
        plain, net, is_squared = zoo.LOSSES[self.loss], self.problem.net, self.loss == "squared"

        def residual(params: Tree, sample: Any) -> jax.Array:
            outputs = self._outputs(params, sample)
            return outputs - sample[1] if is_squared else outputs

        def loss(outputs: jax.Array, sample: Any) -> jax.Array:
            y = sample[1]
            return plain(outputs.reshape(1, *y.shape), y[None])[0]

        terms = {"fit": gt.Term(residual, None if is_squared else loss, 2.0 * scale)}
        if self.form == "supervised":
            terms = {"fit": gt.supervised_term(net.apply, plain, 2.0 * scale)}
        if self.edge:
            terms["edge"] = gt.Term(self._edge, weight=0.5 * scale)
        return terms

    def _edge(self, params: Tree, sample: Any) -> jax.Array:
        """A residual of one number."""
        return jnp.tanh(self._outputs(params, sample)).sum() - 0.3

    def _samples(self, case: Case) -> dict[str, Any]:
        batch = {"fit": (case.x, case.y)}
        if self.edge:
            first = jnp.arange(self.edge) % case.x.shape[0]
            batch["edge"] = (case.x[first] + 0.1, case.y[first])
        return batch

    def _game(self, scale: Any) -> Any:
        # The metric is in units of the gradient.
        metric = gt.metrics.AdamMetric(B2, EPS * scale) if self.has_metric else None
        return gt.joint(
            None if self.form == "losses" else self._terms(scale),
            self.damping * (1.0 if self.has_metric else scale),
            self.momentum,
            metric,
            gt.step_control.FixedRate(self.rate),
            **self.options,
        )

    def _step(self, case: Case, state: Any, scale: Any) -> tuple[Tree, Any]:
        game, running = self._game(scale), self.running(case.params, scale)
        if self.form != "losses":
            return game.update(running, state, case.params, batch=self._samples(case))
        plain, net = zoo.LOSSES[self.loss], self.problem.net

        def losses(params: Tree) -> gt.Losses:
            outputs = net.apply(params, case.x)
            return gt.Losses(outputs, lambda outputs: 2.0 * scale * plain(outputs, case.y))

        return game.update(running, state, case.params, losses=losses)

    def _program(
        self, case: Case, state: Any, moments: jax.Array, scale: Any
    ) -> tuple[dict[str, Tree], Any, jax.Array]:
        """The steps of library and definition, the next state and second moments."""
        steps = {}
        steps["on"], after = self._step(case, state, scale)
        steps["previous"] = after.previous_step
        wide = Case(*upcast(tuple(case)))
        problem = Problem(self._terms(scale), self._samples(wide))
        flat, unravel = ravel_pytree(wide.params)
        running = ravel_pytree(self.running(wide.params, scale))[0]

        gradient = ravel_pytree(jax.grad(problem.objective)(wide.params))[0] + running
        moments = B2 * moments + (1 - B2) * gradient**2
        metric, damping = jnp.ones_like(flat), self.damping * scale
        if self.has_metric:
            metric = jnp.sqrt(moments / (1 - B2 ** (state.step + 1))) + EPS * scale
            damping = self.damping
        start = jnp.zeros_like(flat)
        if self.momentum:
            start = self.momentum * ravel_pytree(upcast(state.previous_step))[0]
        # A linear cost moves the centre of the proximal term.
        centre = start - running / (damping * metric)
        direction = gt.reference.joint_step(
            problem.definitions(),
            wide.params,
            problem.batch,
            damping=damping,
            momentum_step=centre,
            metric=metric,
        )
        steps["dense"] = unravel(self.rate * direction)
        steps["direction"] = unravel(direction)
        steps["plain"] = unravel(self.rate * (start - gradient / (damping * metric)))
        return steps, after, moments

    def cases(self, draws: int) -> Iterator[tuple[list[Finding], float]]:
        """The findings of each case, and how much the curvature changes the step."""
        size = ravel_pytree(self.problem.params)[0].size
        state, moments = self._game(1.0).init(self.problem.params), jnp.zeros(size)
        start = state, moments
        for number in range(draws):
            case, seed = self.draw_case(number)
            steps, after, moved = self._one(case, state, moments, 1.0)
            findings = list(self._exact(steps, after))
            findings += self._permuted(case, state, steps)
            findings += self._duplicated(case, state, steps)
            findings += self._scaled(case, *start, seed)
            yield findings, distance(steps["plain"], steps["dense"])
            state, moments = after, moved

    def _exact(self, steps: Any, after: Any) -> Iterator[Finding]:
        yield from self.taken(steps["on"], after.report)
        yield self.found("fast equals dense", distance(steps["on"], steps["dense"]))
        if self.momentum:
            name = "the direction is remembered"
            yield self.found(name, distance(steps["previous"], steps["direction"]))

    def _permuted(self, case: Case, state: Any, steps: Any) -> Iterator[Finding]:
        if self.batch == 1 or self.edge:
            return  # the samples of the second term are made from the first ones of the batch
        got, _ = self._twice(case.rolled(), state, 1.0)
        yield self.found("permuted samples, same step", distance(got, steps["on"]))

    def _duplicated(self, case: Case, state: Any, steps: Any) -> Iterator[Finding]:
        if self.edge > self.batch:
            return  # likewise
        got, _ = self._twice(case.doubled(), state, 1.0)
        yield self.found("duplicated batch, same step", distance(got, steps["on"]))

    def _scaled(self, case: Case, state: Any, moments: Any, seed: int) -> Iterator[Finding]:
        """Two steps from the start, with the loss in other units."""
        s = float(2.0 ** np.random.default_rng(seed).integers(-3, 4))
        now = then = state
        for _ in range(2):
            want, now = self._twice(case, now, 1.0)
            got, then = self._twice(case, then, s)
            yield self.found("scaled loss, same step", distance(got, want))
