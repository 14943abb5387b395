"""`Network`: layers in, stages out."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from gtddp_jax.core.samples import Samples
from gtddp_jax.core.types import AxisName, Inputs, InputsLike, Tree
from gtddp_jax.network.blocks import Layer, as_layers
from gtddp_jax.network.errors import NetworkError
from gtddp_jax.network.lowering import lower
from gtddp_jax.network.modes import FRESH, Drop, Mode, Normalise, Statistics, bind, by_mode, run
from gtddp_jax.network.probe import check_stages
from gtddp_jax.network.program import Act, Params, Stage
from gtddp_jax.network.protocol import Pass, Playable

if TYPE_CHECKING:
    from gtddp_jax.curvature import Curvature


class Network(Playable):
    """A residual network as state-augmented dynamics (DESIGN §1; paper Eq. 7, 13, 26).

    Args:
        layers: flax.linen modules (players), parameter-free functions, `Residual` and
            `Cooperative` blocks, applied one after the other. `nn.BatchNorm` is a normalisation,
            followed by a player with its scale and bias; `nn.Dropout` is a function. Whether the
            network trains decides what they do; `use_running_average=True` and
            `deterministic=True` switch a layer of theirs to evaluation for good.

    Attributes:
        stages: the dynamics. `stage.players` are the keys into `params` of the players that act at
            once; `stage(params, states)` maps the tuple of live states, arrays of shape [B, ...],
            to the next tuple. The first tuple is `(inputs,)`, the last `(outputs,)`. Where layers
            depend on the mode (`nn.BatchNorm`, `nn.Dropout`), `bind` gives stages that run.

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
        self.layers: tuple[Layer, ...] = as_layers(layers)
        self.stages: tuple[Stage, ...] = lower(self.layers)

    @property
    def players(self) -> tuple[str, ...]:
        """All player names in the order in which they act."""
        return tuple(name for stage in self.stages for name in stage.players)

    @property
    def acts(self) -> tuple[Act, ...]:
        """The players' operations in the order in which they act."""
        return tuple(act for stage in self.stages for act in stage.acts)

    @property
    def has_batch_stats(self) -> bool:
        """Whether the network keeps running statistics (`nn.BatchNorm`)."""
        return bool(self.normalisations)

    @property
    def coupled_stages(self) -> int:
        """So many stages, counted from the first, act before the last batch normalisation."""
        coupled = 0
        for t, stage in enumerate(self.stages):
            acted = False
            for op in stage.ops:
                acted |= isinstance(op, Act)
                if isinstance(op, Normalise) and not op.frozen:
                    coupled = t + acted
        return coupled

    @property
    def normalisations(self) -> tuple[Normalise, ...]:
        """The batch normalisations, in order."""
        return tuple(op for op in by_mode(self.stages) if isinstance(op, Normalise))

    @property
    def rng_collections(self) -> tuple[str, ...]:
        """The collections of random keys that training needs (`nn.Dropout`)."""
        drops = (op for op in by_mode(self.stages) if isinstance(op, Drop) and not op.frozen)
        return tuple(dict.fromkeys(op.module.rng_collection for op in drops))

    def init(self, key: PRNGKeyArray, x: Inputs) -> dict[str, Tree]:
        """Fresh parameters, after checking shapes and the independence of samples.

        Args:
            key: a JAX random key.
            x: an input batch [B, ...]; only its shape and dtype count.

        Returns:
            `{player name: that module's Flax parameters}`.

        Raises:
            NetworkError: shapes do not fit, a layer mixes samples, a module has no parameters.
        """
        return self.init_variables(key, x)["params"]

    def init_variables(self, key: PRNGKeyArray, x: Inputs) -> dict[str, dict[str, Tree]]:
        """Fresh parameters and running statistics.

        Args:
            key: a JAX random key.
            x: an input batch [B, ...]; only its shape and dtype count.

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
        keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        x = jnp.asarray(x)
        self.check(x)
        return jax.jit(self._initialise)(keys, jnp.zeros((1, *x.shape[1:]), x.dtype))

    def _initialise(self, keys: dict[str, jax.Array], x: jax.Array) -> dict[str, Tree]:
        params: dict[str, Any] = {}
        statistics: dict[str, Any] = {}
        values = {self.stages[0].inputs[0]: x}
        for stage, bound in zip(self.stages, bind(self.stages, FRESH), strict=True):
            for op, ready in zip(stage.ops, bound.ops, strict=True):
                xs = [values[v] for v in op.sources]
                if isinstance(op, Act):
                    params[op.name] = op.module.init(keys[op.name], xs[0])["params"]
                if isinstance(op, Normalise):
                    statistics[op.name] = op.initial(xs[0])
                values[op.target] = ready(params, *xs)
        return {"params": params, "batch_stats": statistics}

    def check(self, x: InputsLike) -> None:
        """Probes every layer with two random samples of the shape of `x` [B, ...].

        Raises:
            NetworkError: as `init`.
        """
        if len(x.shape) < 1:
            raise NetworkError(f"Network: inputs of shape {x.shape} lack a sample axis.")
        check_stages(bind(self.stages, FRESH), x)

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

    def check_batch_stats(self, batch_stats: Statistics | None) -> None:
        """Raises `NetworkError` unless `batch_stats` has statistics for exactly the right layers.

        A network without `nn.BatchNorm` takes None or an empty dict.
        """
        needed = {op.name for op in self.normalisations}
        if batch_stats is None and needed:
            raise NetworkError(
                f"batch_stats is missing: {sorted(needed)} keep running statistics. Get the first "
                "ones with variables = net.init_variables(key, x) and pass "
                'batch_stats=variables["batch_stats"]; after a step take them from '
                "state.batch_stats."
            )
        found = batch_stats if batch_stats is not None else {}
        if not hasattr(found, "keys") or set(found) != needed:
            listed = sorted(found) if hasattr(found, "keys") else type(found).__name__
            raise NetworkError(
                f"batch_stats do not match the network: given {listed}, needed {sorted(needed)}."
            )

    def bind(
        self,
        batch_stats: Statistics | None = None,
        *,
        train: bool = False,
        rngs: Mapping[str, PRNGKeyArray] | None = None,
    ) -> tuple[Stage, ...]:
        """The stages in one mode: `self.stages` with normalisation and dropout made definite.

        Args:
            batch_stats: running statistics, if the network has any.
            train: whether it trains; see `apply`.
            rngs: random keys, `{"dropout": key}`, if it trains with dropout.

        Raises:
            NetworkError: statistics or keys are missing or do not match.
        """
        self.check_batch_stats(batch_stats)
        if rngs is not None and not isinstance(rngs, Mapping):
            raise NetworkError(
                f'rngs must be a dict such as {{"dropout": key}}, got {type(rngs).__name__}.'
            )
        missing = [c for c in self.rng_collections if train and c not in (rngs or {})]
        if missing:
            raise NetworkError(
                f"rngs is missing {missing}: the network trains with nn.Dropout. Pass a new key at "
                'every step, tx.update(None, state, params, batch=batch, rngs={"dropout": key}) or '
                "step(params, state, batch, rngs); outside of an optimizer net.apply(params, x, "
                "train=True, rngs=...)."
            )
        return bind(self.stages, Mode(train, batch_stats or {}, rngs or {}))

    def apply(
        self,
        params: Params,
        x: Inputs,
        *,
        batch_stats: Statistics | None = None,
        train: bool = False,
        rngs: Mapping[str, PRNGKeyArray] | None = None,
    ) -> Tree:
        """The outputs of the network.

        Args:
            params: the network's parameters.
            x: inputs [B, ...].
            batch_stats: running statistics, if the network has any.
            train: False to normalise with the running statistics and to drop nothing; True to
                normalise with the statistics of the batch and to drop.
            rngs: random keys, `{"dropout": key}`, if it trains with dropout.

        Returns:
            Outputs [B, ...]; with `train=True` and running statistics `(outputs, batch_stats)`, the
            latter after one update, in the dtypes of those given.

        Raises:
            NetworkError: parameters, statistics or keys are missing or do not match.
        """
        self.check_params(params)
        stages = self.bind(batch_stats, train=train, rngs=rngs)
        outputs, emitted = run(stages, params, x)
        if train and self.has_batch_stats:
            return outputs, {**(batch_stats or {}), **emitted}
        return outputs

    def split(self, params: Params) -> dict[str, Tree]:
        """See `Playable`; parameters are `{player: tree}` already."""
        self.check_params(params)
        return dict(params)

    def merge(self, players: Mapping[str, Tree], like: Params) -> dict[str, Tree]:
        """See `Playable`."""
        return {name: players[name] for name in like}

    def batch_size(self, inputs: Inputs) -> int:
        """See `Playable`."""
        return inputs.shape[0]

    def initial_batch_stats(
        self, batch_stats: Statistics | None, axis_name: AxisName
    ) -> dict[str, Tree]:
        """See `Playable`."""
        self.check_batch_stats(batch_stats)
        for op in self.normalisations:
            others = [axis for axis in op.axes if axis not in Samples(0, axis_name).axes]
            if others:
                raise NetworkError(
                    f"gtddp: {op.name} synchronises its statistics over the mapped axis "
                    f"{others[0]!r}, but gtddp has axis_name={axis_name!r}. Pass gtddp the same "
                    "axis_name, or leave it out of nn.BatchNorm (under jit with a sharded batch "
                    "nothing is needed)."
                )
        return dict(batch_stats or {})

    def forward(
        self,
        params: Mapping[str, Tree],
        inputs: Inputs,
        batch_stats: Statistics,
        rngs: Tree,
        samples: Samples,
        *,
        replayed: bool,
    ) -> Pass:
        """See `Playable`."""
        from gtddp_jax.game.passes import StagePass

        del replayed
        stages = self.bind(batch_stats, train=True, rngs=rngs)
        return StagePass(stages, params, inputs, batch_stats, self.normalisations, samples)

    def explain(
        self,
        params: Params,
        x: InputsLike,
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
