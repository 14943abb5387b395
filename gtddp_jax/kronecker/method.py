"""What KFAC and EKFAC share: statistics, bases, cooperation, momentum.

| symbol | meaning                                                    | here                       |
|--------|------------------------------------------------------------|----------------------------|
| A, B   | `E[x x^T]`, `E[V_h V_h^T]` (Table 1, Eq. 44)               | `Player.inputs`, `outputs` |
| U      | their eigenvectors                                         | `Player.left`, `right`     |
| P      | `eta Q_uu^-1`                                              | `eta operator`             |
| k      | `-eta` momentum(`Q_uu^-1 Q_u`)                             | `open_gain`                |
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gtddp_jax.core.samples import Samples
from gtddp_jax.core.trees import vdot
from gtddp_jax.core.types import Number
from gtddp_jax.curvature.base import Curvature, Move, Place, Policy, Tree
from gtddp_jax.curvature.diagonal import DiagonalCurvature, Rate, check_rate, rate_now
from gtddp_jax.kronecker import statistics
from gtddp_jax.kronecker.averages import Factor, Window, empty
from gtddp_jax.kronecker.bases import Basis, blank, eigenbasis
from gtddp_jax.kronecker.checks import one_of, positive
from gtddp_jax.kronecker.cooperation import MODES, Cooperation, choose
from gtddp_jax.kronecker.cooperation.base import Batch, Own
from gtddp_jax.kronecker.layouts import Dense, Layout, layout
from gtddp_jax.kronecker.policy import KroneckerPolicy
from gtddp_jax.kronecker.schedule import Schedule
from gtddp_jax.kronecker.state import KroneckerState, Player


@dataclasses.dataclass(frozen=True)
class KroneckerCurvature(Curvature):
    """Shared arguments and the step; subclasses turn factors into a table of curvatures.

    Attributes are documented by the subclasses.
    """

    learning_rate: Rate
    damping: Rate = 1e-2
    momentum: Number | None = None
    nesterov: bool = False
    weight_decay: Number | None = None
    norm_constraint: Number | None = None
    factor_decay: float = 0.95
    factors_every: int = 10
    refresh_every: int = 20
    stagger: bool = True
    positions: str = "expand"
    cooperative: str = "none"
    other: DiagonalCurvature | None = None
    full_limit: int = 1024
    window_rows: int = 256

    def __post_init__(self) -> None:
        name = f"curvature.{type(self).__name__}"
        check_rate(name, self.learning_rate)
        if not callable(self.damping):
            positive(name, damping=self.damping)
        one_of(name, "positions", self.positions, statistics.POSITIONS)
        one_of(name, "cooperative", self.cooperative, MODES)
        for field in ("factors_every", "refresh_every", "full_limit", "window_rows"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}({field}={value!r}): give an int >= 1.")
        if not 0 <= self.factor_decay < 1:
            raise ValueError(
                f"{name}(factor_decay={self.factor_decay!r}): give a number in [0, 1)."
            )
        if self.norm_constraint is not None:
            positive(name, norm_constraint=self.norm_constraint)
        if self.other is not None and not isinstance(self.other, DiagonalCurvature):
            raise ValueError(
                f"{name}(other={self.other!r}): players without a Kronecker form need identity, "
                "rmsprop or adam from gtddp_jax.curvature, for example "
                "other=gtddp_jax.curvature.adam(1e-3)."
            )

    # What subclasses add.

    @property
    @abc.abstractmethod
    def damping_form(self) -> str:
        """How the damping joins the eigenvalues, see `gtddp_jax.kronecker.damping`."""

    @abc.abstractmethod
    def start_moments(self, left: Basis, right: Basis) -> Any:
        """`Player.moments` when the bases are new."""

    @abc.abstractmethod
    def next_moments(
        self,
        player: Player,
        layout: Layout,
        q: jax.Array,
        move: Move,
        alpha: jax.Array,
        observed: jax.Array,
        samples: Samples,
    ) -> Any:
        """`Player.moments` after a step with gradient q; `observed`: whether factors were."""

    @abc.abstractmethod
    def own(self, player: Player, gamma: Number) -> Own:
        """The player's curvature and damped table of P."""

    # The structure of a stage.

    def layouts(self, params: Tree, place: Place) -> dict[str, Layout]:
        """The Kronecker players of a stage.

        Raises:
            ValueError: a player has no Kronecker form and `other` is not given.
        """
        found = {act.name: layout(act, params[act.name]) for act in place.stage.acts}
        missing = [act for act in place.stage.acts if found[act.name] is None]
        if missing and self.other is None:
            kinds = [getattr(act.module, "label", type(act.module).__name__) for act in missing]
            names = ", ".join(f"{act.name} ({k})" for act, k in zip(missing, kinds, strict=True))
            raise ValueError(
                f"curvature.{type(self).__name__}: {names} has no Kronecker form; nn.Dense and "
                "nn.Conv have. Choose a method for such players, for example "
                "other=gtddp_jax.curvature.adam(1e-3)."
            )
        return {name: la for name, la in found.items() if la is not None}

    def cooperation(self, layouts: Mapping[str, Layout], place: Place) -> Cooperation:
        """How those players act together."""
        return choose(
            self.cooperative,
            place.stage,
            layouts,
            damping_form=self.damping_form,
            # Joint factors keep the damping of their last refresh; own blocks follow a schedule.
            correct=self.damping_form != "factored" or not isinstance(self.damping, (int, float)),
        )

    def rows(self, layout: Layout, width: int) -> int | None:
        """How many vectors a factor of this width remembers, or None for the full matrix."""
        small = width <= self.full_limit or width <= self.window_rows
        return None if small or not isinstance(layout, Dense) else self.window_rows

    def describe(self, params: Tree, place: Place) -> dict[str, str]:
        """See `Curvature`."""
        layouts = self.layouts(params, place)
        names = {name: type(self.other).__name__ for name in params}
        together = type(self.cooperation(layouts, place)).__name__
        for name, la in layouts.items():
            widths = [(w, self.rows(la, w)) for w in (la.rows, la.columns)]
            sizes = " x ".join(str(w) if r is None else f"{w} (rank {r})" for w, r in widths)
            flops = la.groups * sum(refresh_flops(w, r) for w, r in widths)
            groups = f"{la.groups} groups of " if la.groups > 1 else ""
            names[name] = f"{groups}{sizes}, {flops / 1e9:.2g} Gflop a refresh"
            if together != "Separate":
                names[name] += f", {self.cooperative} ({together})"
        return names

    def _schedule(self, place: Place) -> Schedule:
        return Schedule.of(
            self.factors_every,
            self.refresh_every,
            place.index,
            place.stages,
            stagger=self.stagger,
        )

    @property
    def _chain(self) -> optax.GradientTransformationExtraArgs:
        parts = []
        if self.momentum is not None:
            parts.append(optax.trace(self.momentum, self.nesterov))
        if self.weight_decay is not None:
            parts.append(optax.add_decayed_weights(self.weight_decay))
        return optax.chain(*parts, optax.scale_by_learning_rate(self.learning_rate))

    # The contract.

    def init(self, params: Tree, place: Place) -> Any:
        """See `Curvature`: a `KroneckerState`, or the state of `other` if all players are its."""
        layouts = self.layouts(params, place)
        if not layouts and self.other is not None:
            return self.other.init(params, place)
        cooperation = self.cooperation(layouts, place)
        dtype = jnp.promote_types(
            jnp.float32, jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(params)))
        )
        players = {name: self._start(layout, dtype) for name, layout in layouts.items()}
        windows = [
            name
            for name, p in players.items()
            if isinstance(p.inputs, Window) or isinstance(p.outputs, Window)
        ]
        joint = cooperation.init(dtype)
        if windows and self.damping_form == "factored":
            raise ValueError(
                f"damping_form='factored': the factors of {windows} are wider than full_limit="
                f"{self.full_limit} and kept at low rank, where only damping_form='exact' is "
                "cheap. Raise full_limit, or use 'exact'."
            )
        if windows and joint != ():
            raise ValueError(
                f"cooperative={self.cooperative!r}: the factors of {windows} are wider than "
                f"full_limit={self.full_limit} and kept at low rank, which joint factors cannot "
                "be. Raise full_limit, or use cooperative='none'."
            )
        rest = {name: params[name] for name in params if name not in layouts}
        return KroneckerState(
            count=jnp.zeros((), jnp.int32),
            players=players,
            joint=joint,
            chain=self._chain.init({name: params[name] for name in layouts}),
            other=self.other.init(rest, place) if rest and self.other is not None else (),
        )

    def _start(self, layout: Layout, dtype: Any) -> Player:
        def side(width: int) -> tuple[Factor, Basis]:
            rows = self.rows(layout, width)
            rank = width if rows is None else rows
            return empty(layout.groups, width, dtype, rows), blank(
                layout.groups, width, rank, dtype
            )

        (inputs, left), (outputs, right) = side(layout.rows), side(layout.columns)
        moments = self.start_moments(left, right)
        return Player(inputs, outputs, left, right, moments)

    def policy(
        self,
        q: Tree,
        state: Any,
        params: Tree,
        moves: Mapping[str, Move],
        alpha: jax.Array,
        place: Place,
        samples: Samples,
    ) -> Policy:
        """See `Curvature`."""
        layouts = self.layouts(params, place)
        if not layouts and self.other is not None:
            return self.other.policy(q, state, params, moves, alpha, place, samples)
        cooperation, schedule = self.cooperation(layouts, place), self._schedule(place)
        gamma = _now(self.damping, state.count)
        players, joint = self._learn(
            state, layouts, cooperation, schedule, q, moves, alpha, gamma, samples
        )
        own = {name: self.own(player, gamma) for name, player in players.items()}
        operator = cooperation.operator(joint, own, gamma)
        mine = {name: params[name] for name in layouts}
        image = operator({name: la.matrix(q[name]) for name, la in layouts.items()})
        direction = {name: la.tree(image[name], params[name]) for name, la in layouts.items()}
        eta = rate_now(self.learning_rate, _Count(state.count))
        short = self._shortening({name: q[name] for name in layouts}, direction, eta)
        direction = jax.tree.map(lambda v: jnp.asarray(short, v.dtype) * v, direction)
        gain, chain = self._chain.update(direction, state.chain, mine)
        policy, after = None, state.other
        rest = {name: params[name] for name in params if name not in layouts}
        if rest:
            assert self.other is not None
            policy = self.other.policy(
                {name: q[name] for name in rest},
                state.other,
                rest,
                {name: moves[name] for name in rest},
                alpha,
                place,
                samples,
            )
            gain, after = gain | policy.open_gain, policy.state
        new = KroneckerState(state.count + 1, players, joint, chain, after)
        return KroneckerPolicy(gain, new, operator, eta * short, layouts, moves, policy)

    def _learn(
        self,
        state: KroneckerState,
        layouts: Mapping[str, Layout],
        cooperation: Cooperation,
        schedule: Schedule,
        q: Tree,
        moves: Mapping[str, Move],
        alpha: jax.Array,
        gamma: Number,
        samples: Samples,
    ) -> tuple[dict[str, Player], Any]:
        """The players and the cooperation after this step's statistics."""
        observe, refresh = schedule.observe(state.count), schedule.refresh(state.count)
        batch = Batch(moves, alpha, self.positions, self.factor_decay, samples)

        def observed() -> tuple[dict[str, tuple[Factor, Factor]], Any]:
            factors = {
                name: statistics.updated(
                    (p.inputs, p.outputs),
                    layouts[name],
                    moves[name],
                    alpha,
                    self.positions,
                    self.factor_decay,
                    samples,
                )
                for name, p in state.players.items()
            }
            return factors, cooperation.observe(state.joint, batch)

        old = {name: (p.inputs, p.outputs) for name, p in state.players.items()}
        factors, joint = _maybe(
            schedule.always_observe, observe, observed, lambda: (old, state.joint)
        )

        def refreshed() -> tuple[dict[str, tuple[Basis, Basis, Any]], Any]:
            found = {}
            for name, (inputs, outputs) in factors.items():
                left, right = eigenbasis(inputs), eigenbasis(outputs)
                found[name] = left, right, self.start_moments(left, right)
            return found, cooperation.refresh(joint, gamma)

        same = {name: (p.left, p.right, p.moments) for name, p in state.players.items()}
        bases, joint = _maybe(schedule.always_refresh, refresh, refreshed, lambda: (same, joint))
        players = {}
        for name, la in layouts.items():
            player = Player(*factors[name], *bases[name])
            moments = self.next_moments(
                player, la, la.matrix(q[name]), moves[name], alpha, observe, samples
            )
            players[name] = player._replace(moments=moments)
        return players, joint

    def _shortening(self, q: Tree, direction: Tree, eta: Any) -> Any:
        """The factor that keeps `eta^2 q^T Q_uu^-1 q` within `norm_constraint`; at most 1."""
        if self.norm_constraint is None:
            return 1.0
        square = jnp.square(eta) * vdot(q, direction)
        limit = jnp.sqrt(self.norm_constraint / jnp.where(square > 0, square, 1.0))
        return jnp.where(square > 0, jnp.minimum(1.0, limit), 1.0)


class _Count(NamedTuple):
    count: jax.Array


def refresh_flops(width: int, rows: int | None) -> float:
    """Operations of one decomposition: about 9 n^3, and two products with the rows of a window."""
    return 9.0 * width**3 if rows is None else 9.0 * rows**3 + 4.0 * rows**2 * width


def _maybe(always: bool, flag: jax.Array, new: Any, old: Any) -> Any:
    return new() if always else jax.lax.cond(flag, new, old)


def _now(value: Rate, count: jax.Array) -> Any:
    return value(count) if callable(value) else value
