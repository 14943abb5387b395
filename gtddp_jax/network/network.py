"""`Network`: layers in, stages out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from gtddp_jax.network.blocks import Layer, as_layers
from gtddp_jax.network.errors import NetworkError
from gtddp_jax.network.lowering import lower
from gtddp_jax.network.probe import check_stages
from gtddp_jax.network.program import Act, Params, Stage

if TYPE_CHECKING:
    from gtddp_jax.curvature import Curvature


class Network:
    """A residual network as state-augmented dynamics (DESIGN §1; paper Eq. 7, 13, 26).

    Args:
        layers: flax.linen modules (players), parameter-free functions, `Residual` and
            `Cooperative` blocks, applied one after the other.

    Attributes:
        stages: the dynamics. `stage.players` are the keys into `params` of the players that act at
            once; `stage(params, states)` maps the tuple of live states, arrays of shape [B, ...],
            to the next tuple. The first tuple is `(inputs,)`, the last `(outputs,)`.

    Raises:
        NetworkError: the description cannot be built (named: the block and the reason).

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
        self.layers = as_layers(layers)
        self.stages: tuple[Stage, ...] = lower(self.layers)

    @property
    def players(self) -> tuple[str, ...]:
        """All player names in the order in which they act."""
        return tuple(name for stage in self.stages for name in stage.players)

    @property
    def acts(self) -> tuple[Act, ...]:
        """The players' operations in the order in which they act."""
        return tuple(act for stage in self.stages for act in stage.acts)

    def init(self, key: jax.Array, x: jax.Array) -> dict[str, Any]:
        """Fresh parameters, after checking shapes and the independence of samples.

        Args:
            key: a JAX random key.
            x: an input batch [B, ...]; only its shape and dtype count.

        Returns:
            `{player name: that module's Flax parameters}`.

        Raises:
            NetworkError: shapes do not fit, a layer mixes samples, a module has no parameters.
        """
        names = self.players
        keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        x = jnp.asarray(x)
        self.check(x)
        return jax.jit(self._initialise)(keys, jnp.zeros((1, *x.shape[1:]), x.dtype))

    def _initialise(self, keys: dict[str, jax.Array], x: jax.Array) -> dict[str, Any]:
        params: dict[str, Any] = {}
        values = {self.stages[0].inputs[0]: x}
        for stage in self.stages:
            for op in stage.ops:
                xs = [values[v] for v in op.sources]
                if isinstance(op, Act):
                    params[op.name] = op.module.init(keys[op.name], xs[0])["params"]
                values[op.target] = op(params, *xs)
        return params

    def check(self, x: jax.Array | jax.ShapeDtypeStruct) -> None:
        """Probes every layer with two random samples of the shape of `x` [B, ...].

        Raises:
            NetworkError: as `init`.
        """
        if len(x.shape) < 1:
            raise NetworkError(f"Network: inputs of shape {x.shape} lack a sample axis.")
        with jax.ensure_compile_time_eval():
            names = self.players
            keys = dict(zip(names, jax.random.split(jax.random.key(0), len(names)), strict=True))
            check_stages(self.stages, keys, x)

    def check_params(self, params: Params) -> None:
        """Raises `NetworkError` unless the keys of `params` are exactly the players."""
        given = set(params) if isinstance(params, dict) or hasattr(params, "keys") else None
        if given is None:
            raise NetworkError(
                f"params must be a dict {{player name: parameters}}, got {type(params).__name__}."
            )
        missing, extra = sorted(set(self.players) - given), sorted(given - set(self.players))
        if missing or extra:
            raise NetworkError(
                "params do not match the players of the network"
                + (f"; no parameters for {missing}" if missing else "")
                + (f"; nobody claims the parameters of {extra}" if extra else "")
                + f". Players: {list(self.players)}."
            )

    def apply(self, params: Params, x: jax.Array) -> jax.Array:
        """The outputs [B, ...] of the network for inputs `x` [B, ...]."""
        self.check_params(params)
        states: tuple[jax.Array, ...] = (x,)
        for stage in self.stages:
            states = stage(params, states)
        return states[0]

    def explain(
        self,
        params: Params,
        x: jax.Array | jax.ShapeDtypeStruct,
        curvature: "Curvature | None" = None,
    ) -> str:
        """The game as a table: stages, players, shapes, live states, cost rules, sizes.

        Args:
            params: the network's parameters.
            x: an input batch [B, ...]; its batch size decides the cost rules.
            curvature: from `gtddp_jax.curvature`; adds what each player gets from it (for Kronecker
                curvature: sizes of the factors, cost of a refresh, cooperation).

        Returns:
            Text for `print`.
        """
        from gtddp_jax.network.explain import explain

        return explain(self, params, x, curvature)

    def __repr__(self) -> str:
        return f"Network({len(self.stages)} stages, {len(self.players)} players)"
