"""Layers that are more than a function of their input: they depend on the mode of the network.

| layer          | training                                           | evaluation               |
|----------------|----------------------------------------------------|--------------------------|
| `nn.BatchNorm` | normalises with the statistics of the whole batch, | normalises with the      |
|                | emits the next running averages                    | running averages         |
| `nn.Dropout`   | drops units, with a key of its own                 | nothing                  |

`bind` fixes the mode; what is left are ordinary operations on values. Batch normalisation is split:
the normalisation has no parameters and couples the samples, its scale and bias are an ordinary
player that follows (`Affine`), whose per-sample gradients are those of separate samples (DESIGN
§7). A new layer of this sort is one `ByMode` and one entry in `LAYERS`.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import canonicalize_dtype

from gtddp_jax.core.types import Inputs, Tree
from gtddp_jax.network.errors import NetworkError
from gtddp_jax.network.program import Act, Map, Op, Params, Stage, Value

Statistics: TypeAlias = Mapping[str, Tree]
"""Running statistics `{layer name: {"mean": [features], "var": [features]}}`."""


class Mode(NamedTuple):
    """How a network runs.

    Attributes:
        train: whether it is training.
        batch_stats: running statistics; None for those of a fresh network.
        rngs: random keys by the name of their collection.
    """

    train: bool
    batch_stats: Statistics | None
    rngs: Mapping[str, jax.Array]


FRESH = Mode(train=False, batch_stats=None, rngs={})
"""An evaluation of a network without a past, for shapes and for probing."""


def _unbound(x: jax.Array) -> jax.Array:
    raise NetworkError(
        "this stage depends on the mode of the network (nn.BatchNorm, nn.Dropout). Take the stages "
        "from net.bind(batch_stats, train=..., rngs=...)."
    )


@dataclasses.dataclass(frozen=True, eq=False)
class ByMode(Map, abc.ABC):
    """An operation that `bind` turns into an ordinary one.

    Attributes:
        name: of the layer.
        module: what runs, with the mode left open.
        frozen: whether it is in evaluation mode whatever the network does.
    """

    name: str
    module: Any
    frozen: bool

    @abc.abstractmethod
    def bind(self, mode: Mode) -> Map:
        """The operation in a mode."""

    def _bound(self, function: Callable[[jax.Array], Any]) -> Map:
        return Map(function, self.label, self.source, self.target)


@dataclasses.dataclass(frozen=True, eq=False)
class Observing(Map):
    """An operation that also emits the next running statistics, `observe(x) -> (y, statistics)`."""

    name: str
    observe: Callable[[jax.Array], tuple[jax.Array, Any]]


class Normalise(ByMode):
    """A batch normalisation without scale and bias: Flax's own, so its statistics are Flax's."""

    def initial(self, x: jax.Array) -> Any:
        """The running statistics of a fresh layer with inputs like `x` [B, ..., features]."""
        return self.module.init({}, x, use_running_average=True)["batch_stats"]

    def bind(self, mode: Mode) -> Map:
        """See `ByMode`."""
        if mode.batch_stats is None:
            return self._bound(
                lambda x: self.module.init_with_output({}, x, use_running_average=True)[0]
            )
        own = mode.batch_stats[self.name]

        def running(x: jax.Array) -> jax.Array:
            return self.module.apply({"batch_stats": own}, x, use_running_average=True)

        def observe(x: jax.Array) -> tuple[jax.Array, Any]:
            y, after = self.module.apply(
                {"batch_stats": own}, x, use_running_average=False, mutable=["batch_stats"]
            )
            return y, jax.tree.map(_in_dtype_of, after["batch_stats"], dict(own))

        if not mode.train or self.frozen:
            return self._bound(running)
        return Observing(
            lambda x: observe(x)[0], self.label, self.source, self.target, self.name, observe
        )

    @property
    def axes(self) -> tuple[Any, ...]:
        """The mapped axes over which batch statistics are synchronised."""
        name = self.module.axis_name
        return () if name is None else name if isinstance(name, tuple) else (name,)

    def unsynchronised(self, axes: tuple[Any, ...]) -> tuple[Any, ...]:
        """Those of the mapped axes `axes` over which its statistics differ."""
        if self.module.axis_index_groups is not None:
            return axes
        return tuple(axis for axis in axes if axis not in self.axes)


def _in_dtype_of(new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.asarray(new, jnp.result_type(old))


class Drop(ByMode):
    """Dropout. Its key is the one that Flax derives for a layer of this name."""

    def bind(self, mode: Mode) -> Map:
        """See `ByMode`."""
        if not mode.train or self.frozen:
            return self._bound(lambda x: x)
        collection = self.module.rng_collection
        keys, host = {collection: mode.rngs[collection]}, _Host(self.module, self.name)
        return self._bound(lambda x: host.apply({}, x, rngs=keys))


class _Host(nn.Module):
    """A parent, in which a layer has its name: Flax folds it into the layer's random key."""

    layer: nn.Module
    called: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layer.clone(parent=self, name=self.called)(x, deterministic=False)


class Affine(nn.Module):
    """`scale * x + bias`: the player of a batch normalisation; arguments as in `nn.BatchNorm`."""

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
        makers = {"scale": self.scale_init, "bias": self.bias_init}
        own = {
            name: self.param(name, makers[name], x.shape[-1:], self.param_dtype).reshape(shape)
            for name in used
            if used[name]
        }
        dtype = canonicalize_dtype(x, *own.values(), dtype=self.dtype)
        if "scale" in own:
            x = x * own["scale"]
        if "bias" in own:
            x = x + own["bias"]
        return jnp.asarray(x, dtype)


def _batch_norm(
    module: Any, name: str, place: str, source: Value, new: Callable[[], Value]
) -> list[Op]:
    if module.axis != -1:
        raise NetworkError(
            f"{place}: nn.BatchNorm(axis={module.axis!r}) is not supported; features must be on "
            "the last axis, axis=-1."
        )
    options = {"use_scale": False, "use_bias": False, "use_running_average": None, "name": None}
    normalise = Normalise(
        function=_unbound,
        label=f"{name} (batch statistics)",
        source=source,
        target=new(),
        name=name,
        module=module.clone(**options),
        frozen=module.use_running_average is True,
    )
    ops: list[Op] = [normalise]
    if module.use_scale or module.use_bias:
        fields = ("use_scale", "use_bias", "dtype", "param_dtype", "scale_init", "bias_init")
        affine = Affine(**{field: getattr(module, field) for field in fields})
        ops.append(Act(name, affine, normalise.target, new()))
    return ops


def _dropout(
    module: Any, name: str, place: str, source: Value, new: Callable[[], Value]
) -> list[Op]:
    del place
    drop = Drop(
        function=_unbound,
        label=name,
        source=source,
        target=new(),
        name=name,
        module=module.clone(deterministic=None),
        frozen=module.deterministic is True or module.rate == 0,
    )
    return [drop]


LAYERS: dict[type[nn.Module], Callable[..., list[Op]]] = {
    nn.BatchNorm: _batch_norm,
    nn.Dropout: _dropout,
}
"""Modules that depend on the mode: `(module, name, place, source, new value) -> operations`."""


def operations(
    module: nn.Module, name: str, place: str, source: Value, new: Callable[[], Value]
) -> list[Op]:
    """What a module does: it acts as a player, unless it is of a kind in `LAYERS`.

    Args:
        module: the layer.
        name: its name.
        place: where it stands, for messages.
        source: the value that it reads.
        new: makes a value.

    Raises:
        NetworkError: a subclass or an option that cannot be taken apart.
    """
    for kind, make in LAYERS.items():
        if type(module) is kind:
            return make(module, name, place, source, new)
        if isinstance(module, kind):
            raise NetworkError(
                f"{place}: {type(module).__name__} is a subclass of nn.{kind.__name__}, which a "
                f"network takes apart and so must know; use nn.{kind.__name__} itself."
            )
    return [Act(name, module, source, new())]


def by_mode(stages: tuple[Stage, ...]) -> tuple[ByMode, ...]:
    """All operations that depend on the mode, in order."""
    return tuple(op for stage in stages for op in stage.ops if isinstance(op, ByMode))


def bind(stages: tuple[Stage, ...], mode: Mode) -> tuple[Stage, ...]:
    """The stages in a mode; `batch_stats` and `rngs` have what they need."""
    if not by_mode(stages):
        return stages

    def bound(op: Op) -> Op:
        return op.bind(mode) if isinstance(op, ByMode) else op

    return tuple(Stage(tuple(map(bound, s.ops)), s.inputs, s.outputs) for s in stages)


def observed(op: Op, params: Params, *xs: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    """The value of a bound operation, and `{layer: running statistics}` if it emits any."""
    if isinstance(op, Observing):
        y, statistics = op.observe(*xs)
        return y, {op.name: statistics}
    return op(params, *xs), {}


def run(stages: tuple[Stage, ...], params: Params, x: Inputs) -> tuple[jax.Array, dict[str, Any]]:
    """Outputs [B, ...] and the running statistics emitted on the way, of bound stages."""
    states: tuple[Any, ...] = (x,)
    statistics: dict[str, Any] = {}
    for stage in stages:
        values = dict(zip(stage.inputs, states, strict=True))
        for op in stage.ops:
            xs = (values[v] for v in op.sources)
            values[op.target], emitted = observed(op, params, *xs)
            statistics |= emitted
        states = tuple(values[v] for v in stage.outputs)
    return states[0], statistics
