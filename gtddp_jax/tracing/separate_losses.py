"""Whether losses of samples are separate, as far as their program tells."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gtddp_jax.core.types import Outputs, PerSample
from gtddp_jax.tracing.sample_labels import SampleLabels
from gtddp_jax.tracing.traced_program import trace_program


def losses_are_separate(loss: Callable[[Outputs], PerSample], outputs: Outputs) -> bool:
    """Whether the loss of each sample is computed without the outputs of others.

    True is a proof. False means that an operation mixes samples, or is not understood.

    Args:
        loss: maps outputs to losses [B].
        outputs: an array [B, ...] or a tree of such arrays.
    """
    if any(not jnp.ndim(leaf) for leaf in jax.tree.leaves(outputs)):
        return False
    program = trace_program(lambda outputs: loss(outputs), {}, outputs=outputs)
    (value,) = program.outputs
    if not isinstance(value, int):
        return False
    samples = SampleLabels(program, [value])
    if not samples.labels or samples.coupling_equations:
        return False
    # The leading axis of each output that is read runs over the samples, and nothing else does.
    read = {atom for equation in program.equations for atom in equation.value_inputs}
    return all(
        samples.is_per_sample(leaf)
        and samples.runs_over_samples(leaf, 0)
        and not any(
            samples.runs_over_samples(leaf, axis)
            for axis in range(1, len(program.shapes[leaf].shape))
        )
        for leaf in program.groups["outputs"]
        if leaf in read
    )
