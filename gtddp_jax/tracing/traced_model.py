"""A model at one batch size: traced, its parameters grouped into players, its stages scheduled."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.core.samples import shape_like
from gtddp_jax.core.types import Batch, Tree
from gtddp_jax.network.errors import NetworkError
from gtddp_jax.tracing.grouping import PlayerGroup, group_players
from gtddp_jax.tracing.layer_match import LayerMatch, match_layer
from gtddp_jax.tracing.parameter_uses import BatchedProgram, ParameterUse, find_parameter_uses
from gtddp_jax.tracing.pure_model import PureModel, axis_errors_with_advice
from gtddp_jax.tracing.sample_axes import SampleAxis, find_sample_axes
from gtddp_jax.tracing.sample_coupling import BatchSizes, find_coupling_equations
from gtddp_jax.tracing.stage_schedule import StageSchedule, schedule_stages
from gtddp_jax.tracing.traced_program import (
    TracedEquation,
    TracedProgram,
    axis_sizes,
    trace_program,
)


@dataclasses.dataclass(frozen=True)
class TracedModel:
    """Everything that is read from the trace of a model.

    Attributes:
        batched: the program and its sample axes.
        uses: where parameters meet data.
        source_leaves: for each value, the parameters that it is computed from.
        players: the players in the order in which they act.
        layer_matches: the layer of each player, by name.
        schedule: which equation runs in which stage.
        single_sample_program: returns the program for one sample, or None if tracing with one
            sample gives other operations.
    """

    batched: BatchedProgram
    uses: tuple[ParameterUse, ...]
    source_leaves: Sequence[frozenset[int]]
    players: tuple[PlayerGroup, ...]
    layer_matches: dict[str, LayerMatch]
    schedule: StageSchedule
    single_sample_program: Callable[[], TracedProgram | None]

    def single_sample_equation(self, index: int) -> TracedEquation | None:
        """The equation at a position of the program, for one sample."""
        program = self.single_sample_program()
        return None if program is None else program.equations[index]


def is_random_key(leaf: Any) -> bool:
    """Whether an argument is a random key, of `jax.random.key` or `jax.random.PRNGKey`."""
    if not hasattr(leaf, "dtype"):
        return False
    is_raw = leaf.dtype == jnp.uint32 and jnp.shape(leaf) == (2,)
    return is_raw or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def count_samples(inputs: Batch) -> int:
    """The number of samples of a tree of inputs [B, ...].

    Raises:
        NetworkError: the leaves do not have one leading axis in common, or one is a random key.
    """
    leaves = jax.tree.leaves(inputs)
    shapes = [jnp.shape(leaf) for leaf in leaves]
    # A scalar has no leading axis, so its entry is ().
    leading = {shape[:1] for shape in shapes}
    if len(leading) != 1 and any(is_random_key(leaf) for leaf in leaves):
        raise NetworkError(
            "from_flax: the inputs hold a random key, which is not per sample. Name the argument "
            "that takes it, gt.from_flax(model, x, key_arguments=('z_rng',)), and pass a new key "
            "in every step: tx.update(None, state, params, batch=batch, rngs={'z_rng': key})."
        )
    if len(leading) != 1 or () in leading:
        raise NetworkError(
            "from_flax: inputs must have the samples as their first axis, the same number in every "
            f"array; got shapes {shapes}. Bind arguments that are not per sample to the model, for "
            "example by functools.partial or apply_kwargs."
        )
    return leading.pop()[0]


def trace_model(
    model: PureModel,
    leaves: Sequence[Any],
    state: Tree,
    rngs: Mapping[str, Any],
    inputs: Batch,
    unsupported: str,
) -> TracedModel:
    """Traces a model and reads its players and stages; only shapes, dtypes and varying axes matter.

    Args:
        model: the model.
        leaves: its parameters in the order of `model.paths`.
        state: its other state.
        rngs: random keys by stream.
        inputs: a batch of inputs.
        unsupported: "generic" or "error", as in `from_flax`.

    Raises:
        NetworkError: the model is not supported; the message says what to do.
    """
    size = count_samples(inputs)
    # The program's result is flat, so the tracing function notes how many leaves are outputs.
    output_counts: list[int] = []

    def training_pass(params: Any, state: Any, rngs: Any, inputs: Any) -> Any:
        outputs, next_state = model.apply(params, state, rngs, inputs, True)
        # Runs at every tracing; the count is the same each time.
        output_counts.append(len(jax.tree.leaves(outputs)))
        return outputs, next_state

    shapes: Any = [shape_like(leaf) for leaf in leaves]

    def trace_with(samples: int) -> TracedProgram:
        resized = _with_samples(inputs, samples)
        with axis_errors_with_advice():
            return trace_program(
                training_pass,
                axis_sizes(model.axes),
                params=shapes,
                state=state,
                rngs=rngs,
                inputs=resized,
            )

    # Traced at two sizes: the axis that grows is the sample axis.
    program = trace_with(size)
    other = trace_with(size + 1)
    sample_axes = find_sample_axes(program, other, size, size + 1)
    coupling = find_coupling_equations(program, other, BatchSizes(size, size + 1))
    batched = BatchedProgram(program, sample_axes, size, output_counts[0], coupling)
    _check_outputs(batched)
    uses, source_leaves = find_parameter_uses(batched, model.paths)
    if not uses:
        raise NetworkError("from_flax: the outputs do not depend on any parameter.")
    players = group_players(batched, uses, model.paths, unsupported)
    schedule = schedule_stages(batched, uses, source_leaves, players)

    # Traced on demand: only generic uses need the operations of one sample.
    @functools.cache
    def single_sample_program() -> TracedProgram | None:
        single = program if size == 1 else trace_with(1)
        return single if single.differs_in_shapes_only(program) else None

    return TracedModel(
        batched=batched,
        uses=uses,
        source_leaves=source_leaves,
        players=players,
        layer_matches={
            player.name: match_layer(batched, schedule.producers, uses, player)
            for player in players
        },
        schedule=schedule,
        single_sample_program=single_sample_program,
    )


def _with_samples(inputs: Batch, samples: int) -> Any:
    """The shapes of inputs with another number of samples."""
    return jax.tree.map(lambda leaf: shape_like(leaf, (samples, *jnp.shape(leaf)[1:])), inputs)


def _check_outputs(batched: BatchedProgram) -> None:
    """Raises unless every output that has a derivative is an array with the samples first."""
    program = batched.program
    paths = jax.tree_util.tree_leaves_with_path(
        jax.tree.unflatten(program.structure, program.outputs)
    )
    for (path, _), atom in zip(paths[: batched.output_count], batched.output_atoms, strict=True):
        # The result is a pair of the outputs and the model's next state.
        name = "outputs" + jax.tree_util.keystr(path[1:])
        if not isinstance(atom, int):
            raise NetworkError(f"from_flax: {name}, an output of the model, is a constant.")
        shape = program.shapes[atom]
        if not batched.is_differentiable(atom):
            continue
        if batched.sample_axes[atom] != SampleAxis(0, 1):
            raise NetworkError(
                f"from_flax: {name}, an output of shape {shape.shape}, does not have the samples "
                "as its first axis. Return one entry per sample, and average or sum in the loss. "
                "A loss of the whole batch, such as the balance loss of a mixture of experts, is a "
                "running cost: pass its gradient, tx.update(jax.grad(balance_loss)(params, "
                "inputs), state, params, batch=batch)."
            )
