"""Ways to save a tree of arrays and to restore it into a tree like it."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import flax.serialization
import jax
import orbax.checkpoint as ocp

Tree = Any


def is_key(leaf: Any) -> bool:
    """Whether an array holds random keys."""
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def plain_leaves(tree: Tree) -> list[jax.Array]:
    """The arrays of a tree, with the data of its random keys: what any library can save."""
    return [jax.random.key_data(leaf) if is_key(leaf) else leaf for leaf in jax.tree.leaves(tree)]


def from_plain_leaves(leaves: list[jax.Array], like: Tree) -> Tree:
    """The inverse of `plain_leaves`."""
    wrapped = [
        jax.random.wrap_key_data(leaf) if is_key(key) else leaf
        for leaf, key in zip(leaves, jax.tree.leaves(like), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), wrapped)


def standard_checkpointer(tree: Tree, like: Tree, folder: Path) -> Tree:
    """Orbax's usual checkpointer; restores onto shapes."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", tree)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "state", jax.eval_shape(lambda: like))


def pytree_checkpointer(tree: Tree, like: Tree, folder: Path) -> Tree:
    """Orbax's checkpointer for trees; restores onto arrays."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", tree)
        return checkpointer.restore(
            folder / "state",
            item=like,
            restore_args=ocp.checkpoint_utils.construct_restore_args(like),
        )


def checkpoint_manager(tree: Tree, like: Tree, folder: Path) -> Tree:
    """Orbax's manager of several checkpoints."""
    with ocp.CheckpointManager(folder) as manager:
        manager.save(2, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()
        return manager.restore(2, args=ocp.args.StandardRestore(jax.eval_shape(lambda: like)))


def flax_bytes(tree: Tree, like: Tree, folder: Path) -> Tree:
    """Flax's msgpack."""
    del folder
    return flax.serialization.from_bytes(like, flax.serialization.to_bytes(tree))


def flax_bytes_of_leaves(tree: Tree, like: Tree, folder: Path) -> Tree:
    """Flax's msgpack of a list of arrays."""
    return from_plain_leaves(flax_bytes(plain_leaves(tree), plain_leaves(like), folder), like)


def flax_state_dict(tree: Tree, like: Tree, folder: Path) -> Tree:
    """Flax's nested dicts of arrays."""
    del folder
    return flax.serialization.from_state_dict(like, flax.serialization.to_state_dict(tree))


def pickled(tree: Tree, like: Tree, folder: Path) -> Tree:
    """Python's own, after a copy to the host."""
    del like, folder
    return pickle.loads(pickle.dumps(jax.device_get(tree)))


def equinox_leaves(tree: Tree, like: Tree, folder: Path) -> Tree:
    """Equinox's file of leaves."""
    eqx.tree_serialise_leaves(folder / "state.eqx", plain_leaves(tree))
    leaves = eqx.tree_deserialise_leaves(folder / "state.eqx", plain_leaves(like))
    return from_plain_leaves(leaves, like)


FORMATS: dict[str, Callable[[Tree, Tree, Path], Tree]] = {
    function.__name__: function
    for function in (
        standard_checkpointer,
        pytree_checkpointer,
        checkpoint_manager,
        flax_bytes,
        flax_bytes_of_leaves,
        flax_state_dict,
        pickled,
        equinox_leaves,
    )
}

WITHOUT_NNX = ("flax_bytes", "flax_state_dict")
"""Formats that do not know `nnx.State`, in which nnx models keep their arrays."""
