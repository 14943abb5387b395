"""`from_flax`: an existing Flax model as a game."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from gtddp_jax.core.samples import Samples
from gtddp_jax.core.types import AxisName, Batch, Tree
from gtddp_jax.curvature.base import Curvature
from gtddp_jax.flax_models.axes import mixed_values
from gtddp_jax.flax_models.grouping import UNSUPPORTED
from gtddp_jax.flax_models.models import Model, as_model
from gtddp_jax.flax_models.passes import FlaxPass
from gtddp_jax.flax_models.reading import Reading, batch_size, read_model
from gtddp_jax.flax_models.stages import FlaxStage, stages_of
from gtddp_jax.network.errors import NetworkError
from gtddp_jax.network.protocol import Playable


def from_flax(
    model: Any,
    example_input: Batch,
    *,
    method: str | None = None,
    apply_kwargs: Mapping[str, Any] | None = None,
    eval_kwargs: Mapping[str, Any] | None = None,
    rng_collections: Sequence[str] = ("dropout",),
    unsupported: str = "generic",
) -> "FlaxNetwork":
    """An existing Flax model as a network for `gtddp` and its aliases.

    The model is traced; its players, the stages in which they act and what is alive in between are
    read from the trace, without knowledge of any architecture. Parameters stay in Flax's own tree.

    Args:
        model: a `flax.linen` or `flax.nnx` module.
        example_input: a batch of inputs, arrays or shapes [B, ...]: an array, a tuple of positional
            arguments or a dict of keyword arguments. Only shapes and dtypes count, and other batch
            sizes may follow. `batch=(inputs, targets)` of `update` takes inputs of the same form.
        method: the method that is called; default `__call__`.
        apply_kwargs: further arguments of a training pass, such as `{"train": True}`; static.
        eval_kwargs: the same for `apply(train=False)`; default `apply_kwargs`.
        rng_collections: random streams that a linen model may draw from.
        unsupported: what becomes of parameters that cannot act on their own (layers inside a
            scan, the gates of a recurrent cell, parameters without influence): "generic" folds
            those that act together into one player, "error" refuses them.

    Returns:
        A network. `tx.init` and `tx.update` take `variables["params"]` of a linen model, or
        `nnx.state(model, nnx.Param)`.

    Raises:
        NetworkError: the model cannot be played; the message says why and what to do.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, optax
        >>> import gtddp_jax as gt
        >>> model = nn.Sequential([nn.Dense(8), nn.relu, nn.LayerNorm(), nn.Dense(3)])
        >>> x, y = jnp.ones((4, 5)), jnp.array([0, 1, 2, 0])
        >>> params = model.init(jax.random.key(0), x)["params"]
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> tx = gt.adam(gt.from_flax(model, x), loss, 1e-3)
        >>> state = tx.init(params)
        >>> updates, state = tx.update(None, state, params, batch=(x, y))
        >>> params = optax.apply_updates(params, updates)
    """
    if unsupported not in UNSUPPORTED:
        raise NetworkError(
            f"from_flax: invalid unsupported: {unsupported!r}. Supported: {UNSUPPORTED}."
        )
    batch_size(example_input)
    train = dict(apply_kwargs or {})
    evaluation = train if eval_kwargs is None else dict(eval_kwargs)
    read = as_model(model, example_input, method, train, evaluation, rng_collections)
    return FlaxNetwork(read, example_input, unsupported)


class FlaxNetwork(Playable):
    """A Flax model as stages of players; made by `from_flax`.

    Attributes:
        model: the model as a function.
        stages: `stage.players` are the players that act at once; `stage(params, states)` maps the
            live states to the next ones, for `params` as `split` gives them. The inputs are among
            the states of every stage.
    """

    def __init__(self, model: Model, example: Batch, unsupported: str) -> None:
        self.model: Model = model
        self._unsupported = unsupported
        self._readings: dict[Any, Reading] = {}
        self.input_structure: Any = jax.tree.structure(example)
        rngs = {name: jax.random.key(0) for name in model.rng_collections}
        self.example: Reading = self.reading(model.shapes, model.state, rngs, example)
        self.stages: tuple[FlaxStage, ...] = stages_of(self)

    @functools.cached_property
    def coupled_stages(self) -> int:
        """So many stages, counted from the first, act before samples are mixed the last time."""
        traced, stages = self.example.traced, self.example.plan.stages
        equations = traced.program.equations
        made = {v: t for t, own in enumerate(stages) for i in own for v in equations[i].outputs}
        mixed = mixed_values(traced.program, traced.axes)
        return 1 + max((made.get(value, -1) for value in mixed), default=-1)

    @property
    def players(self) -> tuple[str, ...]:
        """All player names in the order in which they act."""
        return tuple(member.name for member in self.example.members)

    @property
    def rng_collections(self) -> tuple[str, ...]:
        """The random streams that a training pass draws from."""
        program = self.example.traced.program
        read = {v for equation in program.equations for v in equation.read}
        names = sorted(self.model.rng_collections)
        return tuple(n for n, v in zip(names, program.groups["rngs"], strict=True) if v in read)

    def reading(self, leaves: Sequence[Tree], state: Tree, rngs: Tree, inputs: Batch) -> Reading:
        """The model at these shapes; read once for each."""
        key = tuple(map(_signature, (list(leaves), state, rngs, inputs)))
        if key not in self._readings:
            found = read_model(self.model, leaves, state, rngs, inputs, self._unsupported)
            if self._readings:
                _check_same(self.example, found)
            self._readings[key] = found
        return self._readings[key]

    def init_variables(self, key: PRNGKeyArray, x: Batch) -> dict[str, Tree]:
        """Fresh parameters and other state; of an nnx model, those that it held when it was given.

        Args:
            key: a JAX random key.
            x: a batch of inputs; only shapes and dtypes count.

        Returns:
            `{"params": ..., "batch_stats": ...}`.
        """
        params, state = self.model.initialise(key, x)
        return {"params": params, "batch_stats": state}

    def init(self, key: PRNGKeyArray, x: Batch) -> Tree:
        """The parameters of `init_variables`."""
        return self.init_variables(key, x)["params"]

    def apply(
        self,
        params: Tree,
        x: Batch,
        *,
        batch_stats: Tree = None,
        train: bool = False,
        rngs: Mapping[str, PRNGKeyArray] | None = None,
    ) -> Tree:
        """The outputs of the model.

        Args:
            params: its parameters.
            x: a batch of inputs.
            batch_stats: its other state, if it has any.
            train: whether it trains: `apply_kwargs` or `eval_kwargs`; an nnx model is switched by
                `train()` and `eval()`.
            rngs: random keys by stream.

        Returns:
            The outputs; with `train=True` and other state `(outputs, batch_stats)`.
        """
        state = self.initial_batch_stats(batch_stats, None)
        keys = self._keys(rngs) if train else {}
        found, after = self.model.apply(self.model.leaves(params), state, keys, x, train)
        return (found, after) if train and jax.tree.leaves(state) else found

    def explain(
        self, params: Tree = None, x: Batch = None, curvature: Curvature | None = None
    ) -> str:
        """The game as a table: stages, players, what they are, cost rules, sizes.

        Args:
            params: the model's parameters; default their shapes.
            x: a batch of inputs, whose size decides the cost rules; default the example.
            curvature: from `gtddp_jax.curvature`; adds what each player gets from it.

        Returns:
            Text for `print`.
        """
        from gtddp_jax.flax_models.explain import explain

        return explain(self, params, x, curvature)

    def split(self, params: Tree) -> dict[str, dict[str, Tree]]:
        """Parameters, or a tree like them, as `{player: {name: array}}`."""
        leaves = self.model.leaves(params)
        return {
            m.name: {key: leaves[i] for key, i in zip(m.keys, m.leaves, strict=True)}
            for m in self.example.members
        }

    def merge(self, players: Mapping[str, Tree], like: Tree) -> Tree:
        """The inverse of `split`, in the structure of `like`."""
        order = self.model.order(like)
        leaves = self.leaves(players)
        return jax.tree.unflatten(jax.tree.structure(like), [leaves[i] for i in order])

    def leaves(self, players: Mapping[str, Mapping[str, Tree]]) -> list[Tree]:
        """The inverse of `split`, as the model's list of leaves."""
        found: dict[int, Any] = {}
        for m in self.example.members:
            found |= {i: players[m.name][key] for key, i in zip(m.keys, m.leaves, strict=True)}
        return [found[i] for i in range(len(found))]

    def batch_size(self, inputs: Batch) -> int:
        """The number of samples of a batch of inputs."""
        return batch_size(inputs)

    def initial_batch_stats(self, batch_stats: Tree, axis_name: AxisName) -> Tree:
        """See `Playable`; an nnx model brings its own."""
        del axis_name
        return self.model.initial_state(batch_stats)

    def _keys(self, rngs: Mapping[str, Any] | None) -> dict[str, Any]:
        given = dict(rngs or {})
        missing = [name for name in self.rng_collections if name not in given]
        if missing:
            raise NetworkError(
                f"rngs is missing {missing}: the model draws random numbers. Pass a new key at "
                'every step, tx.update(None, state, params, batch=batch, rngs={"dropout": key}) or '
                "step(params, state, batch, rngs)."
            )
        return self.model.keys(given)

    def forward(
        self,
        params: Mapping[str, Tree],
        inputs: Batch,
        batch_stats: Tree,
        rngs: Tree,
        samples: Samples,
        *,
        replayed: bool,
    ) -> FlaxPass:
        """See `Playable`."""
        leaves, keys = self.leaves(params), self._keys(rngs)
        reading = self.reading(leaves, batch_stats, keys, inputs)
        return FlaxPass(reading, leaves, batch_stats, keys, inputs, samples, replayed=replayed)

    def __repr__(self) -> str:
        return f"FlaxNetwork({len(self.stages)} stages, {len(self.players)} players)"


def _signature(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves)


def _check_same(example: Reading, found: Reading) -> None:
    before, after = ([(m.name, m.leaves, m.level) for m in r.members] for r in (example, found))
    if before != after:
        raise NetworkError(
            f"from_flax: with these inputs the model has other players or stages than with the "
            f"example ({len(before)} and {len(after)} players). Give from_flax an example like the "
            "batches to come."
        )
