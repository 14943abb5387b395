"""Worlds of the sequential game."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt
from gtddp_jax.reference.collapsed import reference_sample_gradients
from gtddp_jax.sequential.rollout import ROLLOUTS
from tests.curvature.kronecker import formulas, joint
from tests.properties import bases, parts, plans
from tests.properties.findings import BOUNDS, Finding, distance, figures, upcast
from tests.properties.parts import Case, Shim, Wrapped
from tests.sequential import oracle, zoo

Tree = Any
Hyper = bases.Hyper
MAX_RHO = 0.2
"""The largest rho that a learning rate may cause, with P at the gradient without feedback.

The dense definition does not clip rho at 1. P at the open gradient can be many times larger (Adam's
first step, where a gradient changes its sign); steps with a rho of 1 there are not compared.
"""

MIN_EIGENVALUE_GAP = 1e-4
"""The smallest relative distance of two eigenvalues of a factor at which EKFAC's eigenbasis is
determined to 1e-12. Closer eigenvalues leave the basis, and so EKFAC's scales, to rounding. Factors
of low rank have such eigenvalues: there the order of the samples changes the formula."""

MAX_ROUNDING = 0.25
"""The largest rounding error of optax's own step (against float64), as a fraction of a bound, for
which cases are compared. Rounding dominates where Adam gets a gradient of the wrong sign, or where
a normalization of three nearly equal numbers cancels most digits."""

DTYPES = {"float64": 0.7, "float32": 0.2, "bfloat16": 0.1}
LOSSES_WITH_POSITIONS = ("squared", "pseudo_huber", "welsch")
"""Losses that accept outputs with positions."""


class World(parts.World):
    """A network, a base method and options (see `__init__.py`)."""

    def __init__(self, seed: int, index: int) -> None:
        super().__init__(seed, index)
        rng = self.rng
        self.base = bases.draw(rng)
        self.kronecker = self.base.formula is not None
        self.eigenbases = "running" in self.base.label or "per_example" in self.base.label
        self.dtype = str(rng.choice(list(DTYPES), p=list(DTYPES.values())))
        if self.kronecker:
            self.dtype = "float64"
        self.batch = 7 if self.kronecker else int(rng.integers(1, 5))
        inputs = str(rng.choice(list(plans.INPUTS)))
        plain = self.kronecker or self.base.label == "from_optax(lion)"
        coupled = not plain and self.batch > 1 and rng.random() < 0.15
        apart = self.kronecker and rng.random() < 0.5
        draw = plans.Draw(rng, inputs, generic=not plain, coupled=coupled, apart=apart)
        each = inputs != "flat" and not self.kronecker and rng.random() < 0.2
        self.plan = draw.network(most=3 if self.kronecker else 5, each=each)
        self.loss = str(rng.choice(LOSSES_WITH_POSITIONS if each else list(zoo.LOSSES)))
        self.terminal = str(rng.choice(list(gt.terminal.TERMINALS)))
        self.rollout = str(rng.choice(list(ROLLOUTS)))
        self.max_shift = (
            [None, 1.0, 0.1][rng.integers(3)] if self.terminal == "exact_loss" else None
        )
        self.bounds = (
            [None, (0.02, 10.0)][rng.integers(2)] if self.terminal == "exact_loss" else None
        )
        self.decay = float(rng.choice([0.0, 0.1]))
        if self.terminal == "exact_loss" and self.kronecker:
            # The formula needs V_x, and the exact loss has no Hessian to compute it from.
            self.terminal, self.max_shift, self.bounds = "projected", None, None
        has_formula = self.base.method is not None
        self.self_response = bool(has_formula and rng.random() < 0.15)
        self.problem = self.make_problem()
        if self._can_cooperate():
            self.base = self.base.cooperating(str(rng.choice(joint.MODES)))
        self.coupled = self.problem.net.has_batch_stats
        collapsed = self.coupled or self.self_response or self.terminal == "exact_loss"
        plain = not (collapsed or self.kronecker)
        # The reference of the collapsed recursions is for lists of stages only.
        flax = plain and rng.random() < 0.2
        self.flax = bool(flax)
        self.net: Any = self.problem.net
        self.stages: Any = self.problem.net
        if flax:
            net = gt.from_flax(plans.Model(tuple(self.plan)), self.problem.x)
            self.net, self.stages = net, Shim(net.stages)
        self._one = jax.jit(self._program)
        self._twice = jax.jit(self._off)

    def __str__(self) -> str:
        fields = (
            "dtype",
            "batch",
            "loss",
            "terminal",
            "max_shift",
            "bounds",
            "rollout",
            "decay",
            "self_response",
            "flax",
        )
        return f"sequential, {self.base.label}, {self.describe(*fields)}"

    def _can_cooperate(self) -> bool:
        """Whether some stage has several players, and the dense joint matrices cover all."""
        if self.base.formula is None:
            return False
        formula = self.base.formula(self.base.hyper)
        if formula.kind == "per_example" or formula.positions != "expand":
            return False
        net = self.problem.net
        players = [player_op for stage in net.stages for player_op in stage.player_ops]
        groups = [getattr(player_op.module, "feature_group_count", 1) for player_op in players]
        # Players with one input and kernels of one shape may have a rule of their own.
        shapes = jax.tree.map(jnp.shape, self.problem.params)
        kinds = {(player_op.source, str(shapes[player_op.name])) for player_op in players}
        return len(kinds) == len(players) > len(net.stages) and max(groups) == 1

    def game(self, hyper: Hyper, scale: Any, units: Any) -> oracle.Game:
        """The settings for a loss multiplied by `scale`."""
        plain = zoo.LOSSES[self.loss]
        make = self.base.method
        method: Any = Wrapped(self.base.curvature(hyper)) if make is None else make(hyper)
        return oracle.Game(
            lambda outputs, y: scale * plain(outputs, y),
            method,
            terminal=self.terminal,
            rollout=self.rollout,
            max_shift=self.max_shift,
            bounds=self.bounds,
            decay=self.decay,
            self_response=self.self_response,
            units=units,
        )

    def optimizer(self, hyper: Hyper, scale: Any = 1.0, *, feedback: bool = True) -> Any:
        """The library's optimizer."""
        p = self.problem._replace(net=self.net)
        return oracle.optimizer(p, self.game(hyper, scale, 1.0), feedback=feedback)

    def init(self, hyper: Hyper) -> dict[str, Any]:
        """States before the first step: with and without feedback, optax's, and the formula's."""
        params = self.problem.params
        tx, off = self.optimizer(hyper), self.optimizer(hyper, feedback=False)
        states = {"on": tx.init(params), "off": off.init(params)}
        if self.base.plain is not None:
            states["optax"] = self.base.plain(hyper).init(params)
            states["wide"] = self.base.plain(hyper).init(upcast(params))
        if self.base.method is not None:
            own, method = self.net.split(upcast(params)), self.base.method(hyper)
            states["dense"] = [
                method.start(oracle.owned(own, stage).u.size) for stage in self.stages.stages
            ]
        return states

    def _off(self, case: Case, states: Any, hyper: Hyper) -> Tree:
        """The step without feedback."""
        tx = self.optimizer(hyper, feedback=False)
        running = self.running(case.params, 1.0)
        step, _ = tx.update(running, states["off"], case.params, batch=(case.x, case.y))
        return self.net.split(step)

    def _program(
        self, case: Case, states: Any, hyper: Hyper, scale: Any, units: Any
    ) -> tuple[dict[str, Tree], dict[str, Any], dict[str, jax.Array]]:
        """Steps, next states and figures of a case, for a loss multiplied by `scale`."""
        params, x, y = case
        wide = Case(*upcast(tuple(case)))
        running = self.running(params, scale)
        steps, after = {}, {}
        for label in ("on", "off"):
            tx = self.optimizer(hyper, scale, feedback=label == "on")
            step, after[label] = tx.update(running, states[label], params, batch=(x, y))
            steps[label] = self.net.split(step)
        if self.base.plain is not None:
            for label, own in {"optax": case, "wide": wide}.items():
                step, after[label] = self._plain(own, states[label], hyper, scale)
                steps[label] = self.net.split(step)
        game = self.game(hyper, scale, units)._replace(decay=scale * self.decay)

        curvature, gradients = self._stage_gradients(wide)
        plain = self._plain_diagonals(wide, gradients, states, hyper)
        facts = {"rho": self._largest_rho(curvature, gradients, plain), "gap": jnp.ones(())}
        facts["largest_rho"] = facts["rho"]
        if self.base.method is not None:
            p = zoo.Problem(self.stages, wide.params, wide.x, wide.y, self.problem.batch_stats)
            own = self.net.split(wide.params)
            dense = oracle.dense_step(p, game, own, states["dense"])
            steps["dense"], after["dense"] = dense.steps, dense.memories
            largest = self._largest_rho(curvature, gradients, dense.diagonals)
            facts["largest_rho"] = units * largest
        if self.kronecker:
            steps["dense"] = self._kronecker(wide, hyper, game, feedback=True)
            steps["optax"] = self._kronecker(wide, hyper, game, feedback=False)
        if self.kronecker and self.eigenbases:
            facts["gap"] = self._gap(wide, game)
        return steps, after, facts

    def _plain(self, case: Case, state: Any, hyper: Hyper, scale: Any) -> tuple[Tree, Any]:
        """The step and the next state of the optax optimizer, in the dtype of the case."""
        assert self.base.plain is not None
        loss = functools.partial(self._mean_loss, x=case.x, y=case.y, scale=scale)
        gradient = jax.grad(loss)(case.params)
        gradient = jax.tree.map(jnp.add, gradient, self.running(case.params, scale))
        return self.base.plain(hyper).update(gradient, state, case.params)

    def _mean_loss(self, params: Tree, x: jax.Array, y: jax.Array, scale: Any) -> jax.Array:
        if not self.coupled:
            return scale * zoo.LOSSES[self.loss](self.net.apply(params, x), y).mean()
        outputs, _ = self.net.apply(params, x, batch_stats=self.problem.batch_stats, train=True)
        return scale * zoo.LOSSES[self.loss](outputs, y).mean()

    def _stage_gradients(self, case: Case) -> tuple[jax.Array, list[jax.Array]]:
        """H [B], and G of each stage [B, m]."""

        def losses(outputs: jax.Array) -> jax.Array:
            return zoo.LOSSES[self.loss](outputs, case.y)

        stages = self.stages.bind(self.problem.batch_stats, train=True)
        own, now = self.net.split(case.params), [(case.x,)]
        for stage in stages:
            now.append(stage(own, now[-1]))
        if self.flax:  # its stages are not the programs of a list of stages
            each = jax.vmap(self._sample_gradient, in_axes=(None, 0, 0))(
                case.params, case.x, case.y
            )
            gradients = [jax.vmap(lambda g, s=s: self._flat(g, s))(each) for s in stages]
        else:
            gradients, _ = reference_sample_gradients(stages, own, now, losses)
        end = gt.terminal.TERMINALS[self.terminal]().expand(losses, now[-1][0])
        return end.curvature, gradients

    def _plain_diagonals(
        self, case: Case, gradients: list[jax.Array], states: Any, hyper: Hyper
    ) -> list[Any]:
        """P of each stage, a number or a vector [m], at the gradient of the mean loss."""
        if self.base.method is None:
            return [hyper[self.base.rate] * (1 + 1 / hyper.get("gamma", jnp.inf))] * len(gradients)
        method, own = self.base.method(hyper), self.net.split(case.params)
        return [
            method.gains(big.mean(0), memory, oracle.owned(own, stage))[1]
            for big, memory, stage in zip(
                gradients, states["dense"], self.stages.stages, strict=True
            )
        ]

    def _largest_rho(
        self, curvature: jax.Array, gradients: list[jax.Array], diagonals: list[Any]
    ) -> jax.Array:
        """The largest `h_i G_i^T P G_i / B` of any stage, for the diagonals of P."""
        found = [
            curvature * (jnp.square(big) @ jnp.broadcast_to(p, big.shape[1:]))
            for big, p in zip(gradients, diagonals, strict=True)
        ]
        return jnp.stack(found).max(initial=0.0) / self.batch

    def _sample_gradient(self, params: Tree, x: jax.Array, y: jax.Array) -> Tree:
        def loss(params: Tree) -> jax.Array:
            return zoo.LOSSES[self.loss](self.net.apply(params, x[None]), y[None])[0]

        return jax.grad(loss)(params)

    def _flat(self, tree: Tree, stage: Any) -> jax.Array:
        own = self.net.split(tree)
        return ravel_pytree({name: own[name] for name in stage.players})[0]

    def _kronecker(self, case: Case, hyper: Hyper, game: oracle.Game, *, feedback: bool) -> Tree:
        """The first step of the dense reference, with the matrices of the formula."""
        assert self.base.formula is not None
        formula, stages, own = self.base.formula(hyper), self.stages.stages, case.params
        states: list[tuple[jax.Array, ...]] = [(case.x,)]
        for stage in stages:
            states.append(stage(own, states[-1]))

        def gains(t: int, q: jax.Array, curvature: Any, value: jax.Array) -> gt.reference.Gains:
            del curvature
            found = formulas.blocks(stages[t], own, states[t], value)
            u = self._flat(own, stages[t])
            memory = formulas.start(stages[t], own)
            k, inverse, _ = formulas.policy(formula, memory, found, q, u)
            if self.base.cooperative != "none":
                inverse = self._joint_inverse(formula, stages[t], states[t], own, found, inverse)
                k = -inverse @ q
            return gt.reference.Gains(k, inverse, lambda closed: k - inverse @ (closed - q))

        def hessian(losses: Any, outputs: jax.Array) -> jax.Array:
            model = gt.reference.HESSIANS[self.terminal](losses, outputs)
            return (game.units if feedback else 0.0) * model

        return gt.reference.ddp_step(
            stages,
            own,
            case.x,
            lambda outputs: game.loss_fn(outputs, case.y),
            hessian,
            gains,
            running_gradient=jax.tree.map(lambda u: game.decay * u, own),
            rollout=self.rollout,
        ).steps

    def _joint_inverse(
        self,
        formula: formulas.Formula,
        stage: gt.Stage,
        states: tuple[jax.Array, ...],
        params: Tree,
        found: list[formulas.Block],
        inverse: jax.Array,
    ) -> jax.Array:
        """P of a stage whose players cooperate; `inverse` is theirs, each on its own."""
        values = stage.run(params, states)
        players = [
            joint.Vectors(block.a, block.b, values[player_op.target].shape[1:-1])
            for block, player_op in zip(found, stage.player_ops, strict=True)
        ]
        places = [block.entries.ravel() for block in found]
        own = [joint.Own(jnp.zeros(()), inverse[at][:, at] / formula.rate) for at in places]
        p = formula.rate * joint.inverse(self.base.cooperative, players, own, formula.gamma)
        at = jnp.concatenate(places)
        return jnp.zeros_like(inverse).at[at[:, None], at[None]].set(p)

    def _gap(self, case: Case, game: oracle.Game) -> jax.Array:
        """The smallest relative distance of two eigenvalues of any factor of the first step."""
        assert self.base.formula is not None
        formula, stages = self.base.formula(dict(self.base.hyper)), self.stages.stages
        states: list[tuple[jax.Array, ...]] = [(case.x,)]
        for stage in stages:
            states.append(stage(case.params, states[-1]))

        def rest(now: tuple[jax.Array, ...], t: int) -> jax.Array:
            for stage in stages[t:]:
                now = stage(case.params, now)
            return game.loss_fn(now[0], case.y).mean()

        found = []
        for t, stage in enumerate(stages):
            g = jax.grad(rest)(states[t + 1], t + 1)
            value = jnp.concatenate([v.reshape(self.batch, -1) for v in g], axis=1)
            for block in formulas.blocks(stage, case.params, states[t], value):
                for factor in formulas.moments(block, formula.positions):
                    values = jnp.linalg.eigvalsh(factor)
                    found.append(jnp.diff(values).min(initial=jnp.inf) / values.max())
        return jnp.stack(found).min()

    def cases(self, draws: int) -> Iterator[tuple[list[Finding], float]]:
        """The findings of each case, and the range of its sample weights."""
        hyper = dict(self.base.hyper)
        start = states = self.init(hyper)
        for number in range(draws):
            case, seed = self.draw_case(number)
            fresh = start if self.kronecker else states
            hyper = self._with_safe_rate(case, fresh, hyper)
            steps, after, facts = self._one(case, fresh, hyper, 1.0, 1.0)
            comparable = float(facts["largest_rho"]) < 1
            findings = list(self.taken(steps["on"], after["on"].report))
            if float(facts["gap"]) >= MIN_EIGENVALUE_GAP:
                findings += self._exact(steps, comparable=comparable)
                if self._is_precise(steps):
                    findings += self._permuted(case, fresh, hyper, steps, after)
                    findings += self._duplicated(case, fresh, hyper, steps)
                findings += self._scaled(case, start, hyper, seed)
            report = after["on"].report
            yield (
                findings,
                max(abs(report.sample_weight_max - 1), abs(report.sample_weight_min - 1)),
            )
            # The two memories of a step that cannot be compared differ.
            states = after if comparable else start

    def _with_safe_rate(self, case: Case, states: Any, hyper: Hyper) -> Hyper:
        """The options with the learning rate at which the largest rho is `MAX_RHO`."""
        rate = self.base.rate
        _, _, facts = self._one(case, states, hyper, 1.0, 1.0)
        factor = MAX_RHO / max(float(facts["rho"]), 1e-12)
        # Where rho is 0 only the rate bounds the step; far from the outputs rounding grows.
        most = 10.0 if self.dtype == "float64" else 1.0
        return hyper | {rate: min(hyper[rate] * factor, most)}

    def _is_precise(self, steps: Any) -> bool:
        """Whether optax's own step is accurate enough in the dtype to compare other steps."""
        if "wide" not in steps:
            return True
        return distance(steps["optax"], steps["wide"]) <= MAX_ROUNDING * BOUNDS[self.dtype]

    def _exact(self, steps: Any, *, comparable: bool) -> Iterator[Finding]:
        if not self._is_precise(steps):
            return
        if "dense" in steps and comparable:
            yield self.found("fast equals dense", distance(steps["on"], steps["dense"]))
        if "optax" in steps:
            name = "feedback off equals the base"
            yield self.found(name, distance(steps["off"], steps["optax"]))

    def _permuted(
        self, case: Case, states: Any, hyper: Hyper, steps: Any, after: Any
    ) -> Iterator[Finding]:
        if self.batch == 1:
            return
        got, now, _ = self._one(case.rolled(), states, hyper, 1.0, 1.0)
        yield self.found("permuted samples, same step", distance(got["on"], steps["on"]))
        error = distance(figures(now["on"].report), figures(after["on"].report))
        yield self._figures("permuted samples, same weights", error)

    def _figures(self, name: str, error: float) -> Finding:
        return Finding(name, error, max(BOUNDS[self.dtype], 1e-5))

    def _duplicated(self, case: Case, states: Any, hyper: Hyper, steps: Any) -> Iterator[Finding]:
        """The base's step only: V_xx is stored per sample, so duplicated samples halve rho."""
        if "running" in self.base.label:
            return  # its second moments are those of the batch mean, times B
        step = self._twice(case.doubled(), states, hyper)
        yield self.found("duplicated batch, same base step", distance(step, steps["off"]))

    def _scaled(self, case: Case, start: Any, hyper: Hyper, seed: int) -> Iterator[Finding]:
        """Two steps from the start, with the loss in other units."""
        model = self.terminal != "gradient"
        most = 4 if model else 1  # rho of the gradient model grows with the scale
        s = float(2.0 ** np.random.default_rng(seed).integers(-3, most))
        hyper = self._with_safe_rate(
            case, start, hyper
        )  # the earlier rate was for the states after other steps
        other = self.base.scaled(hyper, s)
        now, then = start, self.init(other) if "initial_scale" in hyper else start
        for _ in range(1 if self.kronecker else 2):
            want, now, facts = self._one(case, now, hyper, 1.0, 1.0 if model else s)
            got, then, _ = self._one(case, then, other, s, 1.0)
            yield self.found("scaled loss, same base step", distance(got["off"], want["off"]))
            if model:
                yield self.found("scaled loss, same step", distance(got["on"], want["on"]))
                error = distance(figures(then["on"].report), figures(now["on"].report))
                yield self._figures("scaled loss, same weights", error)
            elif facts["largest_rho"] >= 1:
                return
            elif "dense" in want and not self.coupled and not self.self_response:
                name = "scaled loss, scaled gradient model"
                if self._is_precise(want):
                    yield self.found(name, distance(got["on"], want["dense"]))
                if self.base.method is not None:
                    then["dense"] = now["dense"]
