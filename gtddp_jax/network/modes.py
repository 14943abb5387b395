"""Layers that depend on the mode of the network, training or evaluation.

| layer          | training                                           | evaluation             |
|----------------|----------------------------------------------------|------------------------|
| `nn.BatchNorm` | normalizes with the statistics of the whole batch, | normalizes with the    |
|                | emits the next running averages                    | running averages       |
| `nn.Dropout`   | drops units, with a random key                     | does nothing           |

`bind_stages` fixes the mode and leaves ordinary operations on values. Batch normalization is split
in two: the normalization has no parameters and couples the samples; its scale and bias are an
ordinary player that follows (`ScaleAndBias`), whose per-sample gradients treat samples as separate.
To support another layer of this sort, write a `ModeDependentOp` and add one entry to
`MODE_DEPENDENT_LAYERS`.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import canonicalize_dtype
from jaxtyping import Array, Float
from typing_extensions import override

from gtddp_jax.core.types import Inputs, PlayerTrees
from gtddp_jax.network.errors import NetworkError
from gtddp_jax.network.program import FunctionOp, PlayerOp, Stage, StageOp, ValueId

LayerStatistics: TypeAlias = Mapping[str, Float[Array, " features"]]
"""Running statistics of one layer, `{"mean": [features], "var": [features]}`."""
Statistics: TypeAlias = Mapping[str, LayerStatistics]
"""Running statistics by the name of the layer."""


class NetworkMode(NamedTuple):
    """How a network runs.

    Attributes:
        train: whether it is training.
        batch_stats: running statistics; None for those of a newly initialized network.
        rngs: random keys by the name of their collection.
    """

    train: bool
    batch_stats: Statistics | None
    rngs: Mapping[str, jax.Array]


FRESH_MODE = NetworkMode(train=False, batch_stats=None, rngs={})
"""Evaluation of a newly initialized network, for shapes and for probing."""


def _refuse_unbound(x: jax.Array) -> jax.Array:
    raise NetworkError(
        "this stage depends on the mode of the network (nn.BatchNorm, nn.Dropout). Take the stages "
        "from net.bind(batch_stats, train=..., rngs=...)."
    )


@dataclasses.dataclass(frozen=True, eq=False)
class ModeDependentOp(FunctionOp, abc.ABC):
    """An operation that `bind` turns into an ordinary one.

    Attributes:
        name: name of the layer.
        module: the layer, without a choice of its mode.
        frozen: whether the layer stays in evaluation mode while the network trains.
    """

    name: str
    module: Any
    frozen: bool

    @abc.abstractmethod
    def bind(self, mode: NetworkMode) -> FunctionOp:
        """The operation in a mode."""

    def _with_function(self, function: Callable[[jax.Array], Any]) -> FunctionOp:
        return FunctionOp(function, self.label, self.source, self.target)


@dataclasses.dataclass(frozen=True, eq=False)
class StatisticsOp(FunctionOp):
    """An operation that also emits the next running statistics.

    Attributes:
        name: name of the layer.
        observe: `observe(x) -> (y, statistics)`.
    """

    name: str
    observe: Callable[[jax.Array], tuple[jax.Array, Any]]


class BatchNormOp(ModeDependentOp):
    """A batch normalization without scale and bias; Flax's own, so its statistics are Flax's."""

    def initial_statistics(self, x: jax.Array) -> LayerStatistics:
        """The running statistics of a new layer with inputs like `x` [B, ..., features]."""
        return self.module.init({}, x, use_running_average=True)["batch_stats"]

    @override
    def bind(self, mode: NetworkMode) -> FunctionOp:
        if mode.batch_stats is None:
            # Initializes statistics (mean 0, variance 1) on the fly and normalizes with them.
            return self._with_function(
                lambda x: self.module.init_with_output({}, x, use_running_average=True)[0]
            )
        statistics = mode.batch_stats[self.name]

        def evaluate(x: jax.Array) -> jax.Array:
            return self.module.apply({"batch_stats": statistics}, x, use_running_average=True)

        def observe(x: jax.Array) -> tuple[jax.Array, Any]:
            y, updated = self.module.apply(
                {"batch_stats": statistics}, x, use_running_average=False, mutable=["batch_stats"]
            )
            # Flax computes in float32; a state must keep its dtypes from step to step.
            return y, jax.tree.map(_cast_like, updated["batch_stats"], dict(statistics))

        if not mode.train or self.frozen:
            return self._with_function(evaluate)
        # As a plain function it returns y alone; `run_op` asks for the statistics, too.
        return StatisticsOp(
            lambda x: observe(x)[0], self.label, self.source, self.target, self.name, observe
        )

    @property
    def axes(self) -> tuple[Any, ...]:
        """The mapped axes over which the layer synchronizes its batch statistics."""
        name = self.module.axis_name
        if name is None:
            return ()
        return name if isinstance(name, tuple) else (name,)

    def unsynchronized_axes(self, axes: tuple[Any, ...]) -> tuple[Any, ...]:
        """Those of the mapped axes `axes` over which the layer's statistics differ."""
        # Groups synchronize within each group only, so statistics differ over all axes.
        if self.module.axis_index_groups is not None:
            return axes
        return tuple(axis for axis in axes if axis not in self.axes)


def _cast_like(updated: jax.Array, previous: jax.Array) -> jax.Array:
    return jnp.asarray(updated, jnp.result_type(previous))


class DropoutOp(ModeDependentOp):
    """Dropout, with the random key that Flax derives for a layer of this name."""

    @override
    def bind(self, mode: NetworkMode) -> FunctionOp:
        if not mode.train or self.frozen:
            return self._with_function(lambda x: x)
        # Looked up now, so that a missing key is an error of `bind` and not of a later trace.
        collection = self.module.rng_collection
        keys, host = {collection: mode.rngs[collection]}, _NamingHost(self.module, self.name)
        return self._with_function(lambda x: host.apply({}, x, rngs=keys))


class _NamingHost(nn.Module):
    """A parent that gives a layer its name, which Flax folds into the layer's random key."""

    layer: nn.Module
    layer_name: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        named: Any = self.layer.clone(parent=self, name=self.layer_name)
        return named(x, deterministic=False)


class ScaleAndBias(nn.Module):
    """`scale * x + bias`: the player of a batch normalization; arguments as in `nn.BatchNorm`."""

    use_scale: bool = True
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    scale_init: Any = nn.initializers.ones
    bias_init: Any = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, ..., features] to the same shape."""
        shape = (1,) * (x.ndim - 1) + x.shape[-1:]
        used = {"scale": self.use_scale, "bias": self.use_bias}
        initializers = {"scale": self.scale_init, "bias": self.bias_init}
        factors = {
            name: self.param(name, initializers[name], x.shape[-1:], self.param_dtype)
            for name in used
            if used[name]
        }
        # Explicit singleton axes, because rank promotion may be an error.
        factors = {name: factor.reshape(shape) for name, factor in factors.items()}
        # As nn.BatchNorm chooses its output dtype.
        dtype = canonicalize_dtype(x, *factors.values(), dtype=self.dtype)
        if "scale" in factors:
            x = x * factors["scale"]
        if "bias" in factors:
            x = x + factors["bias"]
        return jnp.asarray(x, dtype)


class LayerSite(NamedTuple):
    """Where a layer stands in a network.

    Attributes:
        name: the layer's name.
        place: its position in the description, for messages.
        source: the value that it reads.
        new_value: returns the identifier of a new value.
    """

    name: str
    place: str
    source: ValueId
    new_value: Callable[[], ValueId]


class LayerOpsFn(Protocol):
    """Turns a layer of one type into operations."""

    def __call__(self, module: Any, site: LayerSite) -> list[StageOp]:
        """The operations of a layer."""
        ...


def _batch_norm_ops(module: Any, site: LayerSite) -> list[StageOp]:
    if module.axis != -1:
        raise NetworkError(
            f"{site.place}: nn.BatchNorm(axis={module.axis!r}) is not supported; features must be "
            "on the last axis, axis=-1."
        )
    # Scale and bias become a player of their own; the mode is chosen when the stages are bound.
    options = {"use_scale": False, "use_bias": False, "use_running_average": None, "name": None}
    normalization = BatchNormOp(
        function=_refuse_unbound,
        label=f"{site.name} (batch statistics)",
        source=site.source,
        target=site.new_value(),
        name=site.name,
        module=module.clone(**options),
        frozen=module.use_running_average is True,
    )
    ops: list[StageOp] = [normalization]
    if module.use_scale or module.use_bias:
        fields = ("use_scale", "use_bias", "dtype", "param_dtype", "scale_init", "bias_init")
        scale_and_bias = ScaleAndBias(**{field: getattr(module, field) for field in fields})
        ops.append(PlayerOp(site.name, scale_and_bias, normalization.target, site.new_value()))
    return ops


def _dropout_ops(module: Any, site: LayerSite) -> list[StageOp]:
    dropout = DropoutOp(
        function=_refuse_unbound,
        label=site.name,
        source=site.source,
        target=site.new_value(),
        name=site.name,
        module=module.clone(deterministic=None),
        # A rate of 0 needs no random key.
        frozen=module.deterministic is True or module.rate == 0,
    )
    return [dropout]


MODE_DEPENDENT_LAYERS: dict[type[nn.Module], LayerOpsFn] = {
    nn.BatchNorm: _batch_norm_ops,
    nn.Dropout: _dropout_ops,
}
"""Modules that depend on the mode, and how each becomes operations."""


def layer_ops(module: nn.Module, site: LayerSite) -> list[StageOp]:
    """The operations of a module: a player, unless its type is in `MODE_DEPENDENT_LAYERS`.

    Raises:
        NetworkError: a subclass or an option of a mode-dependent layer that is not supported.
    """
    for layer_type, ops_of in MODE_DEPENDENT_LAYERS.items():
        # An exact type: a subclass may compute something else.
        if type(module) is layer_type:
            return ops_of(module, site)
        if isinstance(module, layer_type):
            raise NetworkError(
                f"{site.place}: {type(module).__name__} is a subclass of "
                f"nn.{layer_type.__name__}, which a network takes apart and so must know; use "
                f"nn.{layer_type.__name__} itself."
            )
    return [PlayerOp(site.name, module, site.source, site.new_value())]


def mode_dependent_ops(stages: tuple[Stage, ...]) -> tuple[ModeDependentOp, ...]:
    """All operations that depend on the mode, in order."""
    return tuple(op for stage in stages for op in stage.ops if isinstance(op, ModeDependentOp))


def bind_stages(stages: tuple[Stage, ...], mode: NetworkMode) -> tuple[Stage, ...]:
    """The stages in a mode, whose `batch_stats` and `rngs` have an entry for each layer."""
    if not mode_dependent_ops(stages):
        return stages

    def bind_op(op: StageOp) -> StageOp:
        return op.bind(mode) if isinstance(op, ModeDependentOp) else op

    return tuple(
        Stage(tuple(map(bind_op, stage.ops)), stage.inputs, stage.outputs) for stage in stages
    )


def run_op(
    op: StageOp, params: PlayerTrees, *op_inputs: jax.Array
) -> tuple[jax.Array, dict[str, Any]]:
    """The value of a bound operation, and `{layer: running statistics}` if it emits any."""
    # Statistics leave by a second output, because operations on values have one target.
    if isinstance(op, StatisticsOp):
        value, statistics = op.observe(*op_inputs)
        return value, {op.name: statistics}
    return op(params, *op_inputs), {}


def run_stages(
    stages: tuple[Stage, ...], params: PlayerTrees, x: Inputs
) -> tuple[jax.Array, dict[str, Any]]:
    """The outputs [B, ...] of bound stages, and the running statistics that they emit."""
    states: tuple[Any, ...] = (x,)
    statistics: dict[str, Any] = {}
    for stage in stages:
        values = dict(zip(stage.inputs, states, strict=True))
        for op in stage.ops:
            op_inputs = (values[source] for source in op.sources)
            values[op.target], emitted = run_op(op, params, *op_inputs)
            statistics |= emitted
        states = tuple(values[output] for output in stage.outputs)
    return states[0], statistics
