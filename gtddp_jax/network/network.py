"""`gt.Network`: a list of layers as stages of players."""

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray
from typing_extensions import override

from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.types import AxisName, Batch, Inputs, InputsLike, PlayerTrees, Tree
from gtddp_jax.network.blocks import Layer, as_layers
from gtddp_jax.network.errors import NetworkError
from gtddp_jax.network.intercepted_calls import NetworkCall, intercepted
from gtddp_jax.network.lowering import Lowering
from gtddp_jax.network.modes import (
    FRESH_MODE,
    BatchNormOp,
    DropoutOp,
    NetworkMode,
    Statistics,
    bind_stages,
    mode_dependent_ops,
    run_stages,
)
from gtddp_jax.network.probe import check_stages
from gtddp_jax.network.program import PlayerOp, Stage
from gtddp_jax.network.protocol import StagedNetwork
from gtddp_jax.network.stage_pass import StagePass
from gtddp_jax.network.training_scope import refuse_undecided_dropout

NetworkOutputs: TypeAlias = Float[Array, "B ..."]


class Network(StagedNetwork):
    """A residual network as state-augmented dynamics (paper Eq. 7, 13, 26).

    Args:
        layers: flax.linen modules (players), functions without parameters, `Residual`,
            `Cooperative` and `Parallel` blocks, applied one after another. `nn.BatchNorm` is a
            normalization followed by a player with its scale and bias; `nn.Dropout` is a function.
            Both behave differently in training and evaluation; `use_running_average=True` and
            `deterministic=True` fix one of these layers in evaluation mode.

    Raises:
        NetworkError: the description cannot be built; the message names the block and the reason.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> import gtddp_jax as gt
        >>> body = [nn.Dense(4), nn.relu]
        >>> net = gt.Network([nn.Dense(4), nn.relu, gt.Residual(body), nn.Dense(2)])
        >>> params = net.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> net.apply(params, jnp.ones((5, 3))).shape
        (5, 2)
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers: tuple[Layer, ...] = as_layers(layers)
        # The shape of the last batch that `init` got, for `explain` alone.
        self.example_inputs: InputsLike | None = None
        lowering = Lowering(self.layers)
        self._stages = lowering.stages
        self._placement_counts = tuple(lowering.placement_counts)

    @property
    @override
    def stages(self) -> tuple[Stage, ...]:
        """The dynamics, one stage per step.

        `stage.players` are the keys into `params` of the players that act in the stage, and
        `stage(params, states)` maps the tuple of live states, arrays of shape [B, ...], to the next
        tuple. The first tuple is `(inputs,)`, the last `(outputs,)`. Layers that depend on the mode
        (`nn.BatchNorm`, `nn.Dropout`) run only in the stages that `bind` returns.
        """
        return self._stages

    @override
    def placed_networks(self) -> tuple["Network", ...]:
        if not self._placement_counts:
            return (self,)
        placed = []
        for placement in itertools.product(*map(range, self._placement_counts)):
            network = copy.copy(self)
            network._stages = Lowering(self.layers, placement).stages
            network._placement_counts = ()
            placed.append(network)
        return tuple(placed)

    @property
    def players(self) -> tuple[str, ...]:
        """All player names in the order in which they act."""
        return tuple(name for stage in self.stages for name in stage.players)

    @property
    def player_ops(self) -> tuple[PlayerOp, ...]:
        """The players' operations in the order in which they act."""
        return tuple(player_op for stage in self.stages for player_op in stage.player_ops)

    @property
    def has_batch_stats(self) -> bool:
        """Whether the network keeps running statistics (`nn.BatchNorm`)."""
        return bool(self.normalizations)

    @property
    @override
    def coupled_stages(self) -> int:
        coupled = 0
        for number, stage in enumerate(self.stages):
            player_acted = False
            for op in stage.ops:
                player_acted |= isinstance(op, PlayerOp)
                # A normalization before the stage's players couples the stages before this one.
                if isinstance(op, BatchNormOp) and not op.frozen:
                    coupled = number + player_acted
        return coupled

    @property
    def normalizations(self) -> tuple[BatchNormOp, ...]:
        """The batch normalizations, in order."""
        return tuple(op for op in mode_dependent_ops(self.stages) if isinstance(op, BatchNormOp))

    @property
    def rng_collections(self) -> tuple[str, ...]:
        """The collections of random keys that training needs (`nn.Dropout`)."""
        dropouts = (
            op
            for op in mode_dependent_ops(self.stages)
            if isinstance(op, DropoutOp) and not op.frozen
        )
        # Several layers may share a collection.
        return tuple(dict.fromkeys(op.module.rng_collection for op in dropouts))

    def init(self, key: PRNGKeyArray, x: Inputs) -> dict[str, Tree]:
        """Initial parameters, after checking shapes and the independence of samples.

        Args:
            key: a JAX random key.
            x: an input batch [B, ...]; only its shape and dtype matter.

        Returns:
            `{player name: that module's Flax parameters}`.

        Raises:
            NetworkError: shapes do not fit, a layer mixes samples, a module has no parameters.
        """
        return self.init_variables(key, x)["params"]

    def init_variables(self, key: PRNGKeyArray, x: Inputs) -> dict[str, dict[str, Tree]]:
        """Initial parameters and running statistics.

        Args:
            key: a JAX random key.
            x: an input batch [B, ...]; only its shape and dtype matter.

        Returns:
            `{"params": as from init, "batch_stats": {layer name: {"mean": zeros, "var": ones}}}`;
            `batch_stats` is empty without `nn.BatchNorm`.

        Raises:
            NetworkError: as `init`.

        Example:
            >>> import flax.linen as nn, jax, jax.numpy as jnp
            >>> import gtddp_jax as gt
            >>> net = gt.Network([nn.Dense(4), nn.BatchNorm(), nn.relu, nn.Dense(2)])
            >>> variables = net.init_variables(jax.random.key(0), jnp.ones((1, 3)))
            >>> outputs, batch_stats = net.apply(**variables, x=jnp.ones((5, 3)), train=True)
            >>> jax.tree.map(jnp.shape, batch_stats)
            {'BatchNorm_0': {'mean': (4,), 'var': (4,)}}
        """
        names = self.players
        # One key per player, so that players of one shape start from different parameters.
        keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        x = jnp.asarray(x)
        self.check_layers(x)
        self.example_inputs = jax.ShapeDtypeStruct(x.shape, x.dtype)
        # One sample is enough: no parameter depends on the batch size.
        return jax.jit(self._initialize)(keys, jnp.zeros((1, *x.shape[1:]), x.dtype))

    def param_shapes(self, x: InputsLike) -> dict[str, Tree]:
        """What `init` would return, with shapes for arrays; nothing is computed or checked.

        Args:
            x: an input batch [B, ...], or its shape and dtype.
        """
        keys = dict.fromkeys(self.players, jax.random.key(0))
        return jax.eval_shape(lambda x: self._initialize(keys, x[:1])["params"], x)

    def _initialize(self, keys: dict[str, jax.Array], x: jax.Array) -> dict[str, dict[str, Tree]]:
        params: dict[str, Any] = {}
        statistics: dict[str, Any] = {}
        values = {self.stages[0].inputs[0]: x}
        for stage, bound in zip(self.stages, bind_stages(self.stages, FRESH_MODE), strict=True):
            for op, bound_op in zip(stage.ops, bound.ops, strict=True):
                op_inputs = [values[source] for source in op.sources]
                if isinstance(op, PlayerOp):
                    params[op.name] = op.module.init(keys[op.name], op_inputs[0])["params"]
                if isinstance(op, BatchNormOp):
                    statistics[op.name] = op.initial_statistics(op_inputs[0])
                values[op.target] = bound_op(params, *op_inputs)
        return {"params": params, "batch_stats": statistics}

    def check_layers(self, x: InputsLike) -> None:
        """Probes every layer with two random samples of the shape of `x` [B, ...].

        Raises:
            NetworkError: as `init`.
        """
        if len(x.shape) < 1:
            raise NetworkError(f"Network: inputs of shape {x.shape} lack a sample axis.")
        check_stages(bind_stages(self.stages, FRESH_MODE), x)

    def check_params(self, params: object) -> PlayerTrees:
        """The parameters, if their keys are exactly the players.

        Raises:
            NetworkError: they are not.
        """
        # Anything with keys is accepted, such as flax's FrozenDict and nnx.State.
        players: Any = params
        if not isinstance(players, dict) and not hasattr(players, "keys"):
            raise NetworkError(
                f"params must be a dict {{player name: parameters}}, got {type(players).__name__}."
            )
        given = set(players)
        missing, extra = sorted(set(self.players) - given), sorted(given - set(self.players))
        if missing or extra:
            raise NetworkError(
                "params do not match the players of the network"
                + (f"; no parameters for {missing}" if missing else "")
                + (f"; unexpected parameters: {extra}" if extra else "")
                + f". Players: {list(self.players)}."
            )
        return players

    def check_batch_stats(self, batch_stats: object | None) -> Statistics:
        """The running statistics, if they are those of exactly the layers that keep any.

        A network without `nn.BatchNorm` accepts None or an empty dict.

        Raises:
            NetworkError: they are missing or belong to other layers.
        """
        needed = {op.name for op in self.normalizations}
        if batch_stats is None and needed:
            raise NetworkError(
                f"batch_stats is missing: {sorted(needed)} keep running statistics. Get the first "
                "ones with variables = net.init_variables(key, x) and pass "
                'batch_stats=variables["batch_stats"]; after a step take them from '
                "state.batch_stats."
            )
        given: Any = batch_stats if batch_stats is not None else {}
        if not hasattr(given, "keys") or set(given) != needed:
            listed = sorted(given) if hasattr(given, "keys") else type(given).__name__
            raise NetworkError(
                f"batch_stats do not match the network: given {listed}, needed {sorted(needed)}."
            )
        return given

    def bind(
        self,
        batch_stats: Statistics | None = None,
        *,
        train: bool = False,
        rngs: Mapping[str, PRNGKeyArray] | None = None,
    ) -> tuple[Stage, ...]:
        """The stages in one mode, in which normalization and dropout are ordinary functions.

        Args:
            batch_stats: running statistics, if the network has any.
            train: whether the network trains; see `apply`.
            rngs: random keys, `{"dropout": key}`, if the network trains with dropout.

        Raises:
            NetworkError: statistics or keys are missing or do not match.
        """
        statistics = self.check_batch_stats(batch_stats)
        if rngs is not None and not isinstance(rngs, Mapping):
            raise NetworkError(
                f'rngs must be a dict such as {{"dropout": key}}, got {type(rngs).__name__}.'
            )
        keys = rngs or {}
        # Evaluation needs no keys, so passing none is no error there.
        missing = [name for name in self.rng_collections if train and name not in keys]
        if missing:
            raise NetworkError(
                f"rngs is missing {missing}: the network trains with nn.Dropout. Pass a new key at "
                'every step, tx.update(None, state, params, batch=batch, rngs={"dropout": key}) or '
                "step(params, state, batch, rngs); outside of an optimizer net.apply(params, x, "
                "train=True, rngs=...)."
            )
        return bind_stages(self.stages, NetworkMode(train, statistics, keys))

    @overload
    def apply(
        self,
        params: PlayerTrees,
        x: Inputs,
        *,
        batch_stats: Statistics | None = None,
        train: Literal[False] | None = None,
        rngs: Mapping[str, PRNGKeyArray] | None = None,
    ) -> NetworkOutputs: ...

    @overload
    def apply(
        self,
        params: PlayerTrees,
        x: Inputs,
        *,
        batch_stats: Statistics | None = None,
        train: bool | None,
        rngs: Mapping[str, PRNGKeyArray] | None = None,
    ) -> NetworkOutputs | tuple[NetworkOutputs, Statistics]: ...

    def apply(
        self,
        params: PlayerTrees,
        x: Inputs,
        *,
        batch_stats: Statistics | None = None,
        train: bool | None = None,
        rngs: Mapping[str, PRNGKeyArray] | None = None,
    ) -> NetworkOutputs | tuple[NetworkOutputs, Statistics]:
        """The outputs of the network.

        Args:
            params: the network's parameters.
            x: inputs [B, ...].
            batch_stats: running statistics, if the network has any.
            train: True normalizes with the statistics of the batch and drops units; False, the
                default, normalizes with the running statistics and drops nothing. Inside
                `gt.implicit` it must be given for a network with dropout.
            rngs: random keys, `{"dropout": key}`, if the network trains with dropout.

        Returns:
            Outputs [B, ...]; with `train=True` and running statistics `(outputs, batch_stats)`, the
            latter after one update, in the dtypes of those given.

        Raises:
            NetworkError: parameters, statistics or keys are missing or do not match.
        """
        answer = intercepted(self)
        if answer is not None:
            return answer(NetworkCall(params, x, batch_stats, train, rngs))
        self.check_params(params)
        # Inside an optimizer, a forgotten `train=True` would silently switch dropout off.
        if train is None and self.rng_collections:
            refuse_undecided_dropout()
        stages = self.bind(batch_stats, train=bool(train), rngs=rngs)
        outputs, emitted = run_stages(stages, params, x)
        if train and self.has_batch_stats:
            return outputs, {**(batch_stats or {}), **emitted}
        return outputs

    @override
    def split(self, params: Tree) -> dict[str, Tree]:
        return dict(self.check_params(params))

    @override
    def merge(self, players: PlayerTrees, like: Tree) -> dict[str, Tree]:
        return {name: players[name] for name in cast(PlayerTrees, like)}

    @override
    def batch_size(self, inputs: Batch) -> int:
        return cast(Inputs, inputs).shape[0]

    @override
    def initial_batch_stats(self, batch_stats: Tree | None, axis_name: AxisName) -> dict[str, Tree]:
        statistics = self.check_batch_stats(batch_stats)
        self.check_axes(axis_name)
        return dict(statistics)

    @override
    def check_axes(self, axis_name: AxisName) -> None:
        # Otherwise the layer would see the samples of all devices, but the game those of one.
        axes = SampleReductions(0, axis_name).axes
        for op in self.normalizations:
            others = [axis for axis in op.axes if axis not in axes]
            if others:
                raise NetworkError(
                    f"gtddp: {op.name} synchronises its statistics over the mapped axis "
                    f"{others[0]!r}, but gtddp has axis_name={axis_name!r}. Pass gtddp the same "
                    "axis_name, or leave it out of nn.BatchNorm (under jit with a sharded batch "
                    "nothing is needed)."
                )

    @override
    def forward(
        self,
        params: PlayerTrees,
        inputs: Batch,
        batch_stats: Tree,
        rngs: Mapping[str, PRNGKeyArray] | None,
        samples: SampleReductions,
        *,
        replayed: bool,
    ) -> StagePass:
        del replayed  # a StagePass can always be replayed
        statistics = self.check_batch_stats(batch_stats)
        stages = self.bind(statistics, train=True, rngs=rngs)
        array = cast(Inputs, inputs)
        return StagePass(stages, params, array, statistics, self.normalizations, samples)

    def __repr__(self) -> str:
        return f"Network({len(self.stages)} stages, {len(self.players)} players)"
