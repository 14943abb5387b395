"""KFAC and EKFAC by formula, for players that do not cooperate: dense matrices, no patches.

The formulas are those of docs/mathematics.md, "5. Curvature".

| symbol | meaning                                                          | here                 |
|--------|------------------------------------------------------------------|----------------------|
| a      | Jacobian of one output feature by the weights, per position      | `Block.a` [B, S, p]  |
| b      | V_h: B times the value gradient by the player's output           | `Block.b` [B, S, q]  |
| A, B   | running `E[a a^T]` and `S E[b b^T]`, divided by their weight     | `Memory.factors`     |
| U, s   | eigenvectors of `A (x) B`, second moments along them             | `Memory.bases`       |

A block is one feature group of one player. Nothing of `gtddp_jax.curvature.kronecker` is used.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt

Tree = Any
Matrix = jax.Array


class Block(NamedTuple):
    """One feature group of one player; `entries` are its places in the raveled parameters."""

    a: jax.Array
    b: jax.Array
    entries: jax.Array


@dataclasses.dataclass(frozen=True)
class Formula:
    """A base method. `rate` and `gamma` may be functions of the step.

    `kind`: "exact" or "factored" (KFAC), "running" or "per_example" (EKFAC).
    """

    kind: str
    rate: Any = 0.3
    gamma: Any = 0.2
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    norm_constraint: float | None = None
    factor_decay: float = 0.0
    scale_decay: float = 0.75
    positions: str = "expand"
    factors_every: int = 1
    refresh_every: int = 1
    offsets: tuple[tuple[int, int], ...] = ()  # of updates and refreshes, for each stage

    def of_stage(self, number: int) -> "Formula":
        """The formula with the offsets of one stage."""
        return dataclasses.replace(self, offsets=self.offsets[number : number + 1])


class Memory(NamedTuple):
    """The state of a stage; `steps` is a Python number."""

    steps: int
    factors: list[tuple[Matrix, Matrix]]
    mass: float
    bases: list[tuple[Matrix, jax.Array, jax.Array, jax.Array]]
    trace: jax.Array


def start(stage: gt.Stage, params: Tree) -> Memory:
    """The memory before the first step."""
    size = ravel_pytree({name: params[name] for name in stage.players})[0].size
    return Memory(0, [], 0.0, [], jnp.zeros(size))


def blocks(
    stage: gt.Stage, params: Tree, states: tuple[jax.Array, ...], value: jax.Array
) -> list[Block]:
    """The blocks of a stage; `value` [B, N'] is V_x of the next states."""
    batch = value.shape[0]

    def run(deltas: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        values, inputs = dict(zip(stage.inputs, states, strict=True)), {}
        for op in stage.ops:
            values[op.target] = op(params, *(values[v] for v in op.sources))
            if op in stage.player_ops:
                inputs[op.name] = values[op.source]
                values[op.target] = values[op.target] + deltas[op.name]
        flat = [values[v].reshape(batch, -1) for v in stage.outputs]
        return jnp.concatenate(flat, axis=1), inputs

    seen = stage.run(params, states)
    zeros = {
        player_op.name: jnp.zeros_like(seen[player_op.target]) for player_op in stage.player_ops
    }
    _, pull, inputs = jax.vjp(run, zeros, has_aux=True)
    (v_h,) = pull(batch * value)
    own, unravel = ravel_pytree({name: params[name] for name in stage.players})
    index = unravel(jnp.arange(own.size, dtype=own.dtype))
    found = []
    for player_op in stage.player_ops:
        groups = getattr(player_op.module, "feature_group_count", 1)
        found += _player(
            player_op,
            params[player_op.name],
            inputs[player_op.name],
            v_h[player_op.name],
            index[player_op.name],
            groups,
        )
    return found


def _player(
    player_op: Any, params: Tree, x: jax.Array, v_h: jax.Array, index: Tree, groups: int
) -> list[Block]:
    features = v_h.shape[-1]
    width = features // groups
    g = v_h.reshape(x.shape[0], -1, features)

    def block(group: int) -> Block:
        def feature(params: Tree) -> jax.Array:
            out: Any = player_op.module.apply({"params": params}, x)
            return out[..., group * width].reshape(x.shape[0], -1)

        by = jax.jacfwd(feature)(params)
        a = by["kernel"][..., group * width].reshape(*g.shape[:2], -1)
        kernel = index["kernel"].reshape(-1, groups, width)[:, group]
        if "bias" in by:
            a = jnp.concatenate([a, by["bias"][..., [group * width]]], axis=-1)
            bias = index["bias"].reshape(groups, 1, width)[group]
            kernel = jnp.concatenate([kernel, bias])
        return Block(a, g[..., group * width : (group + 1) * width], kernel.astype(int))

    return [block(group) for group in range(groups)]


def moments(block: Block, positions: str) -> tuple[Matrix, Matrix]:
    """A and B of one batch."""
    a, b = block.a, block.b
    if positions == "reduce":
        a, b = a.mean(1, keepdims=True), b.sum(1, keepdims=True)
    n, s = a.shape[:2]
    left = sum(jnp.outer(a[i, k], a[i, k]) for i in range(n) for k in range(s)) / (n * s)
    right = s * sum(jnp.outer(b[i, k], b[i, k]) for i in range(n) for k in range(s)) / (n * s)
    return jnp.asarray(left), jnp.asarray(right)


def _at(value: Any, count: int) -> Any:
    return value(count) if callable(value) else value


def inverse(f: Formula, count: int, left: Matrix, right: Matrix) -> Matrix:
    """KFAC: the inverse of a block's damped curvature."""
    gamma = _at(f.gamma, count)
    if f.kind == "exact":
        product = jnp.kron(left, right)
        return jnp.linalg.inv(product + gamma * jnp.eye(len(product)))
    pi = jnp.sqrt((jnp.trace(left) / len(left)) / (jnp.trace(right) / len(right)))
    damped_left = left + pi * jnp.sqrt(gamma) * jnp.eye(len(left))
    damped_right = right + jnp.sqrt(gamma) / pi * jnp.eye(len(right))
    return jnp.kron(jnp.linalg.inv(damped_left), jnp.linalg.inv(damped_right))


def policy(
    f: Formula, memory: Memory, found: list[Block], q: jax.Array, own: jax.Array
) -> tuple[jax.Array, Matrix, Memory]:
    """`(k, P, next memory)` of a stage with gradient q and parameters `own`, both [m]."""
    count = memory.steps
    ((update_offset, refresh_offset),) = f.offsets or ((0, 0),)
    refresh = count == 0 or count % f.refresh_every == refresh_offset
    factors, mass = memory.factors, memory.mass
    if refresh or count % f.factors_every == update_offset:
        new = [moments(block, f.positions) for block in found]
        old = factors or [(0 * a, 0 * b) for a, b in new]
        d = f.factor_decay
        factors = [
            (d * a + (1 - d) * c, d * b + (1 - d) * e)
            for (a, b), (c, e) in zip(old, new, strict=True)
        ]
        observed, mass = True, d * mass + (1 - d)
    else:
        observed = False
    bases = memory.bases
    if refresh:
        bases = []
        for a, b in factors:
            (la, ua), (lb, ub) = jnp.linalg.eigh(a / mass), jnp.linalg.eigh(b / mass)
            # The factors are positive semi-definite but for rounding.
            bases.append((jnp.kron(ua, ub), jnp.kron(la, lb), a / mass, b / mass))
    p, kept = jnp.zeros((q.size, q.size)), []
    for block, (basis, s, left, right) in zip(found, bases, strict=True):
        index = block.entries.ravel()
        if f.kind in ("exact", "factored"):
            part = inverse(f, count, left, right)
        else:
            if f.kind == "running":
                new = block.a.shape[0] * jnp.square(basis.T @ q[index])
            else:
                each = jnp.einsum("bsp,bsq->bpq", block.a, block.b).reshape(len(block.a), -1)
                new = jnp.square(each @ basis).mean(0)
            if f.kind == "running" or observed:
                s = f.scale_decay * s + (1 - f.scale_decay) * new
            part = (basis / (s + _at(f.gamma, count))[None]) @ basis.T
        kept.append((basis, s, left, right))
        p = p.at[index[:, None], index[None]].set(part)
    eta = _at(f.rate, count)
    if f.norm_constraint is not None:
        p = p * jnp.minimum(1.0, jnp.sqrt(f.norm_constraint / (eta**2 * (q @ p @ q))))
    direction = p @ q
    trace = direction + f.momentum * memory.trace
    tape = direction + f.momentum * trace if f.nesterov else trace
    k = -eta * (tape + f.weight_decay * own)
    return k, eta * p, Memory(count + 1, factors, mass, kept, trace)


LIBRARY: dict[str, Callable[..., Any]] = {
    "exact": gt.curvature.KFAC,
    "factored": lambda *a, **o: gt.curvature.KFAC(*a, damping_form="factored", **o),
    "running": gt.curvature.EKFAC,
    "per_example": lambda *a, **o: gt.curvature.EKFAC(*a, mode="per_example", **o),
}


def curvature(f: Formula, **options: Any) -> gt.curvature.Curvature:
    """The same method in the library."""
    fields = {
        "momentum": f.momentum or None,
        "nesterov": f.nesterov,
        "weight_decay": f.weight_decay or None,
        "norm_constraint": f.norm_constraint,
        "factor_decay": f.factor_decay,
        "positions": f.positions,
        "factors_every": f.factors_every,
        "refresh_every": f.refresh_every,
        "stagger": False,
    }
    if f.kind in ("running", "per_example"):
        fields["scale_decay"] = f.scale_decay
    return LIBRARY[f.kind](f.rate, f.gamma, **(fields | options))
