"""A step without axes of type Explicit, for users who have them.

| function              | mode                                                                    |
|-----------------------|-------------------------------------------------------------------------|
| a step on players     | Auto: the compiler decides, as under `jit` with a sharded batch         |
| the user's loss       | Explicit, as written: it may name axes, or close over arrays            |
| new parameters, state | Explicit again, each array spread as the one that it replaces           |
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from gtddp_jax.core.explicit_sharding import explicit_mesh, sharding_of
from gtddp_jax.core.report import SampleWeightObserver
from gtddp_jax.core.types import Batch, Loss, Outputs, PerSample, Tree
from gtddp_jax.losses.losses import LossesFn
from gtddp_jax.sequential.step import GTDDPState, SequentialGame


def update_in_auto_mode(
    game: SequentialGame,
    updates: Tree | None,
    state: Any,
    params: Tree,
    batch: Any,
    *,
    observe: SampleWeightObserver | None,
    losses: LossesFn | None,
    **others: Any,
) -> tuple[Tree, GTDDPState]:
    """`game.update_state`, without axes of type Explicit.

    Args:
        game: the game.
        updates: the gradient of the running cost, or None.
        state: the game's state.
        params: the parameters.
        batch: the inputs and the targets.
        observe: the user's function that receives the sample weights; called after the step.
        losses: a function of losses, or None.
        others: further arguments of `update_state`.

    Raises:
        ValueError: a function of the user other than the loss closes over an array of the mesh.
    """
    mesh = explicit_mesh((updates, state, params, batch))
    if mesh is None:
        return game.update_state(
            updates, state, params, batch, losses=losses, observe=observe, **others
        )
    if losses is not None:
        raise ValueError(
            "gtddp: a function of losses closes over its batch, which cannot enter the step where "
            "arrays belong to a mesh with axes of type Explicit. Give the game a loss and pass "
            "batch=(inputs, targets), or make the mesh with "
            "axis_types=(jax.sharding.AxisType.Auto,)."
        )
    others["losses"] = None
    loss: Any = game.loss
    seen: list[jax.Array] = []
    settings: list[jax.Array] = []
    _map_settings(lambda array: settings.append(array) or array, game)
    leaves, structure = jax.tree.flatten((settings, updates, state, params, batch, others))
    # Arguments of a base may be functions, which are spread nowhere.
    positions = [i for i, leaf in enumerate(leaves) if isinstance(leaf, (jax.Array, np.ndarray))]

    def update_arrays(*arrays: jax.Array) -> tuple[Tree, GTDDPState, list[jax.Array]]:
        replaced = list(leaves)
        for position, array in zip(positions, arrays, strict=True):
            replaced[position] = array
        new_settings, *arguments, options = jax.tree.unflatten(structure, replaced)
        remaining = iter(new_settings)
        auto_game = _map_settings(lambda _: next(remaining), game)
        auto_game = dataclasses.replace(auto_game, loss=_in_explicit_mode(loss, batch, mesh))
        observer = None if observe is None else seen.append
        step, next_state = auto_game.update_state(*arguments, observe=observer, **options)
        return step, next_state, seen

    spread = jax.tree.map(lambda leaf: NamedSharding(mesh, sharding_of(leaf).spec), (params, state))
    whole = NamedSharding(mesh, PartitionSpec())
    run: Any = jax.sharding.auto_axes(
        update_arrays, axes=mesh.explicit_axes, out_sharding=(*spread, whole)
    )
    with _errors_with_advice():
        step, next_state, observed = run(*(leaves[position] for position in positions))
    for weights in observed:
        # There are weights only if there is a function that wants them.
        assert observe is not None
        observe(weights)
    return step, next_state


@contextlib.contextmanager
def _errors_with_advice() -> Iterator[None]:
    """Adds what to do to JAX's error about an array that did not enter the step."""
    try:
        yield
    except ValueError as error:
        if "should match the aval mesh" not in str(error):
            raise
        raise ValueError(
            "gtddp: the model or the base closes over an array that belongs to a mesh with axes of "
            "type Explicit. Pass hyperparameters as optax.inject_hyperparams(optax.sgd)(0.1) "
            "inside of gt.curvature.FromOptax, arrays as parameters or inputs of the model, or "
            "make the mesh with axis_types=(jax.sharding.AxisType.Auto,). The loss may close over "
            "arrays."
        ) from error


def _map_settings(function: Callable[[jax.Array], jax.Array], game: SequentialGame) -> Any:
    """The game with those hyperparameters replaced that are arrays, as optax can inject them."""
    curvature, terminal = (
        _map_array_fields(function, part) for part in (game.curvature, game.terminal)
    )
    return dataclasses.replace(game, curvature=curvature, terminal=terminal)


def _map_array_fields(function: Callable[[jax.Array], jax.Array], value: Any) -> Any:
    """A dataclass with its arrays replaced, those of its dataclasses included."""
    if isinstance(value, jax.Array):
        return function(value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    names = [field.name for field in dataclasses.fields(value) if field.init]
    fields = {name: _map_array_fields(function, getattr(value, name)) for name in names}
    return dataclasses.replace(value, **fields)


def _in_explicit_mode(loss: Loss, batch: Any, mesh: AbstractMesh) -> Loss:
    """A loss that sees outputs and targets spread over the axes as the batch is."""
    leaves = [leaf for leaf in jax.tree.leaves(batch) if jnp.ndim(leaf)]
    spread = next((leaf for leaf in leaves if sharding_of(leaf).spec[0] is not None), None)
    if spread is None:
        samples, by_sample = -1, PartitionSpec()
    else:
        samples, by_sample = spread.shape[0], PartitionSpec(sharding_of(spread).spec[0])

    def explicit_loss(outputs: Outputs, targets: Batch) -> PerSample:
        shardings = jax.tree.map(
            lambda leaf: by_sample if jnp.shape(leaf)[:1] == (samples,) else PartitionSpec(),
            (outputs, targets),
        )
        run: Any = jax.sharding.explicit_axes(loss, axes=mesh.explicit_axes, in_sharding=shardings)
        return run(outputs, targets)

    return explicit_loss
