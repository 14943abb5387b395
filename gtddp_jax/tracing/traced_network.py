"""A traced model as a network for the sequential game."""

from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import PRNGKeyArray
from typing_extensions import override

from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.types import AxisName, Batch, PlayerTrees, Tree
from gtddp_jax.network.errors import NetworkError
from gtddp_jax.network.intercepted_calls import NetworkCall, intercepted
from gtddp_jax.network.protocol import StagedNetwork
from gtddp_jax.tracing.model_tracer import ModelTracer
from gtddp_jax.tracing.pure_model import PureModel
from gtddp_jax.tracing.sample_coupling import find_mixed_values
from gtddp_jax.tracing.traced_model import TracedModel, count_samples
from gtddp_jax.tracing.traced_pass import TracedPass
from gtddp_jax.tracing.traced_stages import TracedStage, build_traced_stages


class TracedNetwork(StagedNetwork):
    """A model as stages of players, read from its trace; made by `from_flax`.

    Attributes:
        model: the model as a pure function.
        tracer: traces the model at other shapes.
        stages: `stage.players` are the players that act in the stage; `stage(params, states)` maps
            the live states to the next ones, for `params` as `split` returns them. The inputs are
            among the states of every stage.
    """

    def __init__(self, model: PureModel, example: Batch, unsupported: str) -> None:
        self.model: PureModel = model
        self.tracer: ModelTracer = ModelTracer(model, example, unsupported)
        self._stages = build_traced_stages(self.tracer)
        self._coupled_stages = _count_coupled_stages(self.example_trace)

    @property
    @override
    def stages(self) -> tuple[TracedStage, ...]:
        return self._stages

    @property
    def example_trace(self) -> TracedModel:
        """The model traced at the shapes of the example."""
        return self.tracer.example_trace

    @property
    @override
    def coupled_stages(self) -> int:
        return self._coupled_stages

    @property
    def players(self) -> tuple[str, ...]:
        """All player names in the order in which they act."""
        return tuple(player.name for player in self.example_trace.players)

    @property
    def rng_collections(self) -> tuple[str, ...]:
        """The random streams that a training pass draws from."""
        program = self.example_trace.batched.program
        read = {value for equation in program.equations for value in equation.value_inputs}
        names = sorted(self.model.rng_collections)
        # A model may be given keys for streams that its training pass never reads.
        keys = zip(names, program.groups["rngs"], strict=True)
        return tuple(name for name, key in keys if key in read)

    def init_variables(self, key: PRNGKeyArray, x: Batch) -> dict[str, Tree]:
        """Fresh parameters and other state; for an nnx model, those that it had in `from_flax`.

        Args:
            key: a JAX random key.
            x: a batch of inputs; only shapes and dtypes matter.

        Returns:
            `{"params": ..., "batch_stats": ...}`.
        """
        params, state = self.model.init_variables(key, x)
        return {"params": params, "batch_stats": state}

    def init(self, key: PRNGKeyArray, x: Batch) -> Tree:
        """The parameters of `init_variables`."""
        return self.init_variables(key, x)["params"]

    def apply(
        self,
        params: Tree,
        x: Batch,
        *,
        batch_stats: Tree | None = None,
        train: bool = False,
        rngs: Mapping[str, PRNGKeyArray] | None = None,
    ) -> Tree:
        """The outputs of the model.

        Args:
            params: its parameters.
            x: a batch of inputs.
            batch_stats: its other state, if it has any.
            train: whether this is a training pass, with `apply_kwargs` instead of `eval_kwargs`; an
                nnx model is switched by its `eval()`.
            rngs: random keys by stream or argument; in evaluation only those of `key_arguments`.

        Returns:
            The outputs; with `train=True` and other state, `(outputs, batch_stats)`.
        """
        answer = intercepted(self)
        if answer is not None:
            return answer(NetworkCall(params, x, batch_stats, train, rngs))
        state = self.model.initial_state(batch_stats)
        keys = self._checked_keys(rngs) if train else self._evaluation_keys(rngs)
        leaves = self.model.parameter_leaves(params)
        outputs, next_state = self.model.apply(leaves, state, keys, x, train)
        return (outputs, next_state) if train and jax.tree.leaves(state) else outputs

    @override
    def split(self, params: Tree) -> PlayerTrees:
        return self.tracer.split_leaves(self.model.parameter_leaves(params))

    @override
    def merge(self, players: PlayerTrees, like: Tree) -> Tree:
        leaves = self.tracer.merge_leaves(players)
        positions = self.model.leaf_positions(like)
        return jax.tree.unflatten(jax.tree.structure(like), [leaves[i] for i in positions])

    @override
    def batch_size(self, inputs: Batch) -> int:
        return count_samples(inputs)

    @override
    def initial_batch_stats(self, batch_stats: Tree | None, axis_name: AxisName) -> Tree:
        self.check_axes(axis_name)
        return self.model.initial_state(batch_stats)

    @override
    def check_axes(self, axis_name: AxisName) -> None:
        axes = SampleReductions(0, axis_name).axes
        missing = [axis for axis in self.model.axes if axis not in axes]
        if missing:
            raise NetworkError(
                f"the model communicates over the mapped axis {missing[0]!r}, but gtddp has "
                f"axis_name={axis_name!r}. Pass gtddp the same axis_name as from_flax, or leave it "
                "out of the model and use jit with a sharded batch."
            )

    def _checked_keys(self, rngs: Mapping[str, Any] | None) -> dict[str, Any]:
        """Random keys by stream, from a dict or None.

        Raises:
            NetworkError: a stream that the model draws from has no key.
        """
        given = dict(rngs or {})
        missing = [name for name in self.rng_collections if name not in given]
        if missing:
            raise NetworkError(
                f"rngs is missing {missing}: the model draws random numbers. Pass a new key at "
                'every step, tx.update(None, state, params, batch=batch, rngs={"dropout": key}) or '
                "step(params, state, batch, rngs)."
            )
        return self.model.random_keys(given)

    def _evaluation_keys(self, rngs: Mapping[str, Any] | None) -> dict[str, Any]:
        """Random keys of arguments that take one in evaluation too; streams draw nothing there.

        Raises:
            NetworkError: such an argument has no key.
        """
        given = dict(rngs or {})
        missing = [name for name in self.model.evaluation_keys if name not in given]
        if missing:
            raise NetworkError(
                f"rngs is missing {missing}: the model takes these keys in evaluation too. Pass "
                f"net.apply(params, x, rngs={{{missing[0]!r}: key}}), or from_flax a fixed value, "
                f"eval_kwargs={{{missing[0]!r}: key}}."
            )
        return {name: given[name] for name in self.model.evaluation_keys}

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
    ) -> TracedPass:
        # Under jit this runs at tracing time only, so one trace of the model serves all steps.
        leaves, keys = self.tracer.merge_leaves(params), self._checked_keys(rngs)
        traced = self.tracer.trace(leaves, batch_stats, keys, inputs)
        return TracedPass(traced, leaves, batch_stats, keys, inputs, samples, replayed=replayed)

    def __repr__(self) -> str:
        return f"TracedNetwork({len(self.stages)} stages, {len(self.players)} players)"


def _count_coupled_stages(traced: TracedModel) -> int:
    """The number of stages before samples influence each other for the last time."""
    program = traced.batched.program
    written_in = {
        value: stage
        for stage, equations in enumerate(traced.schedule.stage_equations)
        for index in equations
        for value in program.equations[index].outputs
    }
    # Values written before the first stage mix samples too, but no player precedes them.
    mixed = find_mixed_values(
        program, traced.batched.sample_axes, traced.batched.coupling_equations
    )
    return 1 + max((written_in.get(value, -1) for value in mixed), default=-1)
