"""What KFAC and EKFAC share as base methods: arguments, momentum, weight decay, learning rate.

| symbol | meaning                                        | here                             |
|--------|------------------------------------------------|----------------------------------|
| P      | `eta Q_uu^-1`                                  | `rate * preconditioner`          |
| k      | `-eta momentum(Q_uu^-1 Q_u)`                   | `open_gain`                      |
| gamma  | damping                                        | `damping`                        |
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from typing_extensions import override

from gtddp_jax.core.trees import tree_vdot
from gtddp_jax.core.types import Number, PlayerTrees, Rate, Tree
from gtddp_jax.core.validation import check_choice, check_positive
from gtddp_jax.curvature.base import Curvature, CurvatureState, Policy, StageInputs
from gtddp_jax.curvature.diagonal import DiagonalCurvature, step_by_player
from gtddp_jax.curvature.kronecker import factor_statistics
from gtddp_jax.curvature.kronecker.cooperation import (
    COOPERATION_MODES,
    Cooperation,
    SeparatePlayers,
    choose_cooperation,
)
from gtddp_jax.curvature.kronecker.diagonal_moments import DiagonalMoments
from gtddp_jax.curvature.kronecker.eigenvalue_rule import EigenvalueRule
from gtddp_jax.curvature.kronecker.factor_statistics import FactorOptions
from gtddp_jax.curvature.kronecker.factors import StageFactors
from gtddp_jax.curvature.kronecker.gain_chain import gain_transformations
from gtddp_jax.curvature.kronecker.kronecker_policy import KroneckerPolicy, KroneckerState
from gtddp_jax.curvature.kronecker.matrix_layouts import MatrixLayout, matrix_layout
from gtddp_jax.curvature.kronecker.preconditioner import Preconditioner
from gtddp_jax.curvature.kronecker.refresh_schedule import RefreshSchedule
from gtddp_jax.curvature.learning_rate import check_learning_rate, schedule_value
from gtddp_jax.network.protocol import StageIndex


@dataclasses.dataclass(frozen=True)
class KroneckerCurvature(Curvature):
    """A base method with Kronecker factors; subclasses document the arguments and give a rule."""

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
    window_rows: int = 128

    def __post_init__(self) -> None:
        name = f"curvature.{type(self).__name__}"
        check_learning_rate(name, self.learning_rate)
        # A schedule has no value before the first step.
        if not callable(self.damping):
            check_positive(name, damping=self.damping)
        check_choice(name, "positions", self.positions, factor_statistics.POSITION_MODES)
        check_choice(name, "cooperative", self.cooperative, COOPERATION_MODES)
        for field in ("factors_every", "refresh_every", "full_limit", "window_rows"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}({field}={value!r}): give an int >= 1.")
        if not 0 <= self.factor_decay < 1:
            raise ValueError(
                f"{name}(factor_decay={self.factor_decay!r}): give a number in [0, 1)."
            )
        if self.norm_constraint is not None:
            check_positive(name, norm_constraint=self.norm_constraint)
        if self.other is not None and not isinstance(self.other, DiagonalCurvature):
            raise ValueError(
                f"{name}(other={self.other!r}): players without a Kronecker form need SGD, RMSProp "
                "or Adam from gtddp_jax.curvature, for example "
                "other=gtddp_jax.curvature.Adam(1e-3)."
            )

    @property
    @abc.abstractmethod
    def eigenvalue_rule(self) -> EigenvalueRule:
        """How the eigenvalues of Q_uu are estimated."""

    def kronecker_layouts(
        self, params: PlayerTrees, stage_index: StageIndex
    ) -> dict[str, MatrixLayout]:
        """The matrix forms of the stage's Kronecker players; the others are missing."""
        layouts = {
            player_op.name: matrix_layout(player_op, params[player_op.name])
            for player_op in stage_index.stage.player_ops
        }
        return {name: layout for name, layout in layouts.items() if layout is not None}

    @property
    def other_method(self) -> DiagonalCurvature:
        """The method of players without a Kronecker form."""
        if self.other is not None:
            return self.other
        return DiagonalMoments(
            self.learning_rate,
            self.damping,
            self.momentum,
            self.nesterov,
            self.weight_decay,
            self.factor_decay,
            # As for Kronecker players: momentum and statistics of the open gradient.
            statistics="open",
        )

    def stage_cooperation(
        self, layouts: dict[str, MatrixLayout], stage_index: StageIndex
    ) -> Cooperation[Any]:
        """How these players of the stage act together."""
        damps_factors = self.eigenvalue_rule.damps_factors
        return choose_cooperation(
            self.cooperative,
            stage_index.stage,
            layouts,
            exact_damping=not damps_factors,
            # Joint factors keep the damping of their last refresh; own blocks follow a schedule.
            correct=not damps_factors or not isinstance(self.damping, (int, float)),
        )

    @property
    def _factor_options(self) -> FactorOptions:
        return FactorOptions(self.positions, self.factor_decay, self.full_limit, self.window_rows)

    def _stage_factors(
        self, layouts: dict[str, MatrixLayout], stage_index: StageIndex
    ) -> StageFactors:
        schedule = RefreshSchedule.for_stage(
            self.factors_every,
            self.refresh_every,
            stage_index.number,
            stage_index.stage_count,
            stagger=self.stagger,
        )
        cooperation = self.stage_cooperation(layouts, stage_index)
        return StageFactors(cooperation, schedule, self._factor_options, self.eigenvalue_rule)

    @property
    def _optax_chain(self) -> optax.GradientTransformationExtraArgs:
        """From the preconditioned gradient to the open gain."""
        return optax.chain(
            *gain_transformations(
                self.learning_rate, self.momentum, self.nesterov, self.weight_decay
            )
        )

    @override
    def init(self, params: PlayerTrees, stage_index: StageIndex) -> CurvatureState:
        layouts = self.kronecker_layouts(params, stage_index)
        if not layouts:
            return self.other_method.init(params, stage_index)
        leaf_dtypes = (leaf.dtype for leaf in jax.tree.leaves(params))
        # Statistics of low-precision parameters are kept in float32.
        dtype = jnp.promote_types(jnp.float32, jnp.result_type(*leaf_dtypes))
        stage_factors = self._stage_factors(layouts, stage_index)
        factors = stage_factors.init_state(dtype)
        self._check_windows(stage_factors.windowed_players(factors), factors.joint)
        other_params = {name: params[name] for name in params if name not in layouts}
        return KroneckerState(
            # Schedules of damping and refreshes need a count, whatever the chain keeps.
            step_count=jnp.zeros((), jnp.int32),
            factors=factors,
            chain=self._optax_chain.init({name: params[name] for name in layouts}),
            other=self.other_method.init(other_params, stage_index) if other_params else (),
        )

    def _check_windows(self, windowed: list[str], joint: Tree) -> None:
        """Raises where factors of low rank would be needed as full matrices."""
        # Factored damping adds to all directions, also to those outside of a window.
        if windowed and self.eigenvalue_rule.damps_factors:
            raise ValueError(
                f"damping_form='factored': the factors of {windowed} are wider than full_limit="
                f"{self.full_limit} and kept at low rank, where only damping_form='exact' is "
                "cheap. Raise full_limit, or use 'exact'."
            )
        if windowed and joint != ():
            raise ValueError(
                f"cooperative={self.cooperative!r}: the factors of {windowed} are wider than "
                f"full_limit={self.full_limit} and kept at low rank, which joint factors cannot "
                "be. Raise full_limit, or use cooperative='none'."
            )

    @override
    def policy(self, inputs: StageInputs, state: CurvatureState) -> Policy:
        layouts = self.kronecker_layouts(inputs.params, inputs.stage_index)
        if not layouts:
            return self.other_method.policy(inputs, state)
        assert isinstance(state, KroneckerState)
        gamma = schedule_value(self.damping, state.step_count)
        # Rebuilt in each trace: it is static, and only its state is carried along.
        stage_factors = self._stage_factors(layouts, inputs.stage_index)
        factors = stage_factors.update_state(state.factors, inputs, state.step_count, gamma)
        preconditioner = Preconditioner.from_factors(
            stage_factors.rule, stage_factors.cooperation, factors, gamma
        )

        gradient = {name: inputs.gradient[name] for name in layouts}
        params = {name: inputs.params[name] for name in layouts}
        # The direction is rounded to the dtype of the parameters, like a gradient.
        direction = preconditioner.to_trees(preconditioner.multiply_trees(gradient), params)
        learning_rate = schedule_value(self.learning_rate, state.step_count)
        shortening = self._norm_constraint_factor(gradient, direction, learning_rate)
        direction = jax.tree.map(lambda leaf: jnp.asarray(shortening, leaf.dtype) * leaf, direction)
        gain, chain = step_by_player(self._optax_chain, direction, state.chain, params)

        # Players without a Kronecker form take their step in the same stage.
        other_policy, other_state = None, state.other
        others = inputs.gradient.keys() - layouts.keys()
        if others:
            other_policy = self.other_method.policy(inputs.restrict(others), state.other)
            gain, other_state = {**gain, **other_policy.open_gain}, other_policy.state
        next_state = KroneckerState(state.step_count + 1, factors, chain, other_state)
        # The norm constraint shortens feedback like the open gain.
        rate = learning_rate * shortening
        return KroneckerPolicy(gain, next_state, preconditioner, rate, inputs.tapes, other_policy)

    def _norm_constraint_factor(
        self, gradient: PlayerTrees, direction: PlayerTrees, learning_rate: Number
    ) -> Number:
        """The factor, at most 1, that keeps `eta^2 q^T Q_uu^-1 q` within `norm_constraint`."""
        if self.norm_constraint is None:
            return 1.0
        # The predicted decrease of the quadratic model, up to a factor.
        squared_norm = jnp.square(learning_rate) * tree_vdot(gradient, direction)
        divisor = jnp.where(squared_norm > 0, squared_norm, 1.0)
        factor = jnp.sqrt(self.norm_constraint / divisor)
        return jnp.where(squared_norm > 0, jnp.minimum(1.0, factor), 1.0)

    @override
    def describe(self, params: PlayerTrees, stage_index: StageIndex) -> dict[str, str]:
        layouts = self.kronecker_layouts(params, stage_index)
        cells = self.other_method.describe(params, stage_index)
        cooperation = self.stage_cooperation(layouts, stage_index)
        for name, layout in layouts.items():
            cells[name] = self._describe_factors(layout)
            if not isinstance(cooperation, SeparatePlayers):
                cells[name] += f", {self.cooperative} ({type(cooperation).__name__})"
        return cells

    def _describe_factors(self, layout: MatrixLayout) -> str:
        """The sizes of a player's factors and the cost of their decompositions."""
        rows_by_width = [
            (width, self._factor_options.rows_to_keep(layout, width))
            for width in (layout.rows, layout.columns)
        ]
        sizes = " x ".join(
            str(width) if rows is None else f"{width} (rank {rows})"
            for width, rows in rows_by_width
        )
        flops = layout.groups * sum(refresh_flops(width, rows) for width, rows in rows_by_width)
        groups = f"{layout.groups} groups of " if layout.groups > 1 else ""
        return f"{groups}{sizes}, {flops / 1e9:.2g} Gflop a refresh"


def refresh_flops(width: int, rows: int | None) -> float:
    """Operations of one decomposition of a factor, or of a window with this many rows.

    An eigendecomposition takes about 9 n^3 of them; a window adds two products with its rows.
    """
    return 9.0 * width**3 if rows is None else 9.0 * rows**3 + 4.0 * rows**2 * width
