"""One batch through a model: the forward pass, the adjoints at the uses, the players' moves."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.core.samples import Samples, varying
from gtddp_jax.core.trees import inner, wide
from gtddp_jax.core.types import Outputs, Tree
from gtddp_jax.curvature.base import Move
from gtddp_jax.flax_models.forms import matrix_data
from gtddp_jax.flax_models.gradients import Idle, Joint, Part, Seen
from gtddp_jax.flax_models.grouping import Member
from gtddp_jax.flax_models.kinds import Site, UseSums, sums_of
from gtddp_jax.flax_models.program import Value, read
from gtddp_jax.flax_models.reading import Reading
from gtddp_jax.flax_models.schedule import Evaluation, fixed_values
from gtddp_jax.flax_models.views import view_of
from gtddp_jax.network.errors import NetworkError
from gtddp_jax.network.protocol import Pass, Players
from gtddp_jax.players.base import SampleGradients


class FlaxPass(Pass):
    """A training batch through a Flax model.

    Args:
        reading: the model at this batch size.
        params: the leaves of the parameters.
        state: the model's other state.
        rngs: random keys by name.
        inputs: the inputs, leaves [B, ...].
        samples: the sample axis.
        replayed: whether the stages will be run again with new parameters.

    Raises:
        NetworkError: the stages cannot be run again.
    """

    def __init__(
        self,
        reading: Reading,
        params: Sequence[jax.Array],
        state: Tree,
        rngs: Tree,
        inputs: Any,
        samples: Samples,
        *,
        replayed: bool,
    ) -> None:
        late = reading.plan.late
        if replayed and late:
            raise NetworkError(
                f"rollout='nonlinear' runs stage after stage with new parameters, but {list(late)} "
                "are used again after the stage in which they act (shared weights, or modules that "
                "act as one). Use rollout='linear', which needs no second forward pass."
            )

        if any(varying(x) for x in jax.tree.leaves(inputs)):
            raise NetworkError(
                "under jax.shard_map a model from from_flax needs check_vma=False: its operations "
                "were traced outside. Pass jax.shard_map(..., check_vma=False), or use jit with a "
                "sharded batch, which needs nothing."
            )
        self.reading: Reading = reading
        self.params: list[Any] = list(params)
        program = reading.traced.program
        start = program.start(params=params, state=state, rngs=rngs, inputs=inputs)
        self._fixed = fixed_values(reading.traced, reading.plan, start)
        self._makers = reading.plan.makers
        uses = {
            str(n): [self._zeros(program.equations[u.index].outputs[i]) for i in u.outputs]
            for n, u in enumerate(reading.uses)
        }
        live = {
            str(t): [self._zeros(v) for v in self._alive(t)]
            for t in range(1, len(reading.plan.stages))
            if replayed
        }
        shifts = samples.local_copy((uses, live))
        flat, self._pull, aux = jax.vjp(self._run, shifts, has_aux=True)
        rest, self._read, self._constants, self._old = aux
        outputs, after = jax.tree.unflatten(program.structure, [*flat, *rest])
        self.outputs: Outputs = outputs
        self.batch_stats: Tree = _common(after, samples)
        self._replay: Replay | None = None

    def _zeros(self, value: Value) -> jax.Array:
        shape = self.reading.traced.program.shapes[value]
        return jnp.zeros(shape.shape, shape.dtype)

    def _alive(self, t: int) -> list[Value]:
        """The activations before stage t that have a derivative."""
        return [v for v in self.reading.plan.live[t] if self.reading.traced.floating(v)]

    def evaluation(self) -> Evaluation:
        """The stages, to be run from the first on."""
        return Evaluation(self.reading.traced, self.reading.plan, self._fixed)

    def _run(self, shifts: tuple[dict[str, Any], dict[str, Any]]) -> tuple[list, Any]:
        """The outputs as a function of shifts at the uses and between stages."""
        uses, live = shifts
        reading, run = self.reading, self.evaluation()
        program, plan = reading.traced.program, reading.plan
        at = {use.index: n for n, use in enumerate(reading.uses)}
        seen, constants, old = {}, {}, {}
        for t, stage in enumerate(plan.stages):
            if str(t) in live:
                run.forget()
                old[str(t)] = [run.values[v] for v in self._alive(t)]
                for value, shift in zip(self._alive(t), live[str(t)], strict=True):
                    run.values[value] = run.values[value] + shift
            for index in stage:
                run.equation(index)
                if index not in at:
                    continue
                equation, n = program.equations[index], at[index]
                seen[str(n)] = [run.values[v] for v in equation.read]
                constants |= self._batch_constants(run, equation.read)
                for i, shift in zip(reading.uses[n].outputs, uses[str(n)], strict=True):
                    value = equation.outputs[i]
                    run.values[value] = run.values[value] + shift
        found = [run.need(v) if isinstance(v, int) else v.val for v in program.outputs]
        outputs, rest = found[: reading.traced.outputs], found[reading.traced.outputs :]
        return outputs, (rest, seen, constants, old)

    def _batch_constants(self, run: Evaluation, values: Sequence[Value]) -> dict[str, jax.Array]:
        """What values of parameters are computed from beside parameters."""
        equations, owners = self.reading.traced.program.equations, self.reading.owners
        found, todo = {}, [v for v in values if owners[v]]
        while todo:
            value = todo.pop()
            if value in self._makers:
                for source in equations[self._makers[value]].read:
                    if owners[source]:
                        todo.append(source)
                    else:
                        found[str(source)] = run.need(source)
        return found

    def backward(self, gradient: Tree) -> None:
        """Propagates the output gradients to the uses and to what is alive between stages."""
        ((self._adjoints, self._live),) = self._pull(jax.tree.leaves(gradient))
        self._gradient = gradient

    def moves(self, gradient: Tree, *, feedback: bool) -> list[dict[str, Move]]:
        """See `Pass`."""
        self.backward(gradient)
        found: list[dict[str, Move]] = [{} for _ in self.reading.plan.stages]
        for member in self.reading.members:
            found[member.level][member.name] = self._move(member, feedback=feedback)
        return found

    def _move(self, member: Member, *, feedback: bool) -> Move:
        samples, form = self.samples(member, feedback=feedback), self.reading.forms[member.name]
        if form.use < 0:
            nothing = jnp.zeros((self.reading.traced.size, 0))
            return Move(nothing, nothing, samples)
        kernel = self.params[member.leaves[member.keys.index("kernel")]]
        return Move(*matrix_data(form, self._site(form.use), kernel), samples)

    def replay(self, t: int, new: Players) -> jax.Array:
        """See `Pass`."""
        self._replay = self._replay or Replay(self, self._gradient)
        return self._replay.change(t, new)

    @property
    def new_outputs(self) -> Tree | None:
        """See `Pass`."""
        return None if self._replay is None else self._replay.outputs

    def moved(self, t: int, values: Mapping[Value, Any]) -> jax.Array:
        """`g . (x' - x)` [B] over what is alive before stage t, for other values x'."""
        parts = []
        olds = zip(self._alive(t), self._live[str(t)], self._old[str(t)], strict=True)
        for value, g, old in olds:
            axis = self.reading.traced.axis(value)
            parts.append(inner(axis.front(g), axis.front(wide(values[value]) - wide(old))))
        return jnp.stack(parts).sum(0)

    def _site(self, n: int) -> Site:
        reading, traced = self.reading, self.reading.traced
        use = reading.uses[n]
        equation = traced.program.equations[use.index]
        arrays = iter(self._read[str(n)])
        inputs = tuple(next(arrays) if isinstance(v, int) else v.val for v in equation.inputs)
        axes = tuple(
            traced.axes[v] if isinstance(v, int) and i not in use.operands else None
            for i, v in enumerate(equation.inputs)
        )
        return Site(
            equation,
            use.operands,
            inputs,
            axes,
            use.outputs,
            tuple(self._adjoints[str(n)]),
            tuple(traced.axis(equation.outputs[i]) for i in use.outputs),
            traced.size,
            lambda: reading.alone(use.index),
        )

    def sums(self, member: Member) -> list[UseSums]:
        """The sums of a player's uses."""
        return [sums_of(self._site(n)) for n in member.uses]

    def samples(self, member: Member, *, feedback: bool) -> SampleGradients:
        """The per-sample gradients of a player."""
        own = {k: self.params[i] for k, i in zip(member.keys, member.leaves, strict=True)}
        if not member.uses:
            size = self.reading.traced.size
            return Idle(own, size, jnp.float32)
        sums = self.sums(member)
        parts = self.seen(member, sums)
        if parts is not None:
            return Seen(parts, feedback=feedback)
        return Joint(sums, self._derive(member), own, feedback=feedback)

    def seen(self, member: Member, sums: Sequence[UseSums]) -> dict[str, Part] | None:
        """`{key: (use, view)}` if each parameter has one use, of which it is a view."""
        program = self.reading.traced.program
        keys = {
            program.groups["params"][leaf]: key
            for leaf, key in zip(member.leaves, member.keys, strict=True)
        }
        found: dict[str, Part] = {}
        for n, use in zip(member.uses, sums, strict=True):
            site = use.site
            equation = program.equations[self.reading.uses[n].index]
            first = equation.inputs[site.operands[0]]
            single = len(site.operands) == 1
            view = view_of(program, self._makers, first) if single else None
            if view is None or keys[view[0]] in found:
                return None
            found[keys[view[0]]] = use, view[1]
        return {key: found[key] for key in member.keys} if len(found) == len(keys) else None

    def _derive(self, member: Member) -> Callable[[Tree], list[jax.Array]]:
        program, reading = self.reading.traced.program, self.reading
        wanted = [
            program.equations[reading.uses[n].index].inputs[i]
            for n in member.uses
            for i in reading.uses[n].operands
        ]

        def derive(own: Tree) -> list[jax.Array]:
            run = self.evaluation()
            run.forget()
            run.values |= {int(v): x for v, x in self._constants.items()}
            for key, leaf in zip(member.keys, member.leaves, strict=True):
                run.values[program.groups["params"][leaf]] = own[key]
            return [run.need(value) for value in wanted]

        return derive


def _common(state: Tree, samples: Samples) -> Tree:
    """The model's other state, the same on all devices: the mean of what differs."""

    def common(x: jax.Array) -> jax.Array:
        mine = tuple(axis for axis in samples.axes if axis in varying(x))
        inexact = jnp.issubdtype(x.dtype, jnp.inexact)
        return jax.lax.pmean(x, mine) if mine and inexact else x

    return jax.tree.map(common, state) if samples.axes else state


class Replay:
    """The stages once more, with new parameters (paper Alg. 1).

    Args:
        run: the pass, made `replayed` and taken backward.
        gradient: the output gradients.
    """

    def __init__(self, run: FlaxPass, gradient: Tree) -> None:
        self._pass, self._evaluation = run, run.evaluation()
        self._gradient = gradient
        self.outputs: Tree | None = None

    def change(self, t: int, own: Players) -> jax.Array:
        """`g . (x' - x)` [B] over what is alive after stage t, once its players have moved."""
        reading, run = self._pass.reading, self._evaluation
        program, plan = reading.traced.program, reading.plan
        members = {member.name: member for member in reading.members}
        for name, leaves in own.items():
            member = members[name]
            for key, leaf in zip(member.keys, member.leaves, strict=True):
                run.values[program.groups["params"][leaf]] = leaves[key]
        run.forget()
        for index in plan.stages[t]:
            run.equation(index)
        if t + 1 < len(plan.stages):
            return self._pass.moved(t + 1, run.values)
        leaves = [read(run.values, v) for v in program.outputs[: reading.traced.outputs]]
        self.outputs = jax.tree.unflatten(jax.tree.structure(self._pass.outputs), leaves)
        moved = jax.tree.map(lambda a, b: wide(a) - wide(b), self.outputs, self._pass.outputs)
        return inner(self._gradient, moved)
