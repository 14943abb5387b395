"""Cooperative stages as dense matrices, from the vectors a and b of the players alone.

| symbol     | meaning                                                           | shape        |
|------------|-------------------------------------------------------------------|--------------|
| a          | the Jacobian of one output of the player by its weights           | [B, S, rows] |
| b          | V_h, the weighted adjoint of the player's output                  | [B, S, cols] |
| A_ww, B_ww | joint factors: all players' rows, all players' columns (Eq. 50)   | square       |
| w          | all parameters, player by player: kernel row by row, then bias    | [m]          |
| L, Q_uu    | a player's own curvature, undamped and damped                     | [m_u, m_u]   |
| P          | the inverse of Q_ww, without the rate                             | [m, m]       |

Formulas use nothing of `gtddp_jax.curvature.kronecker`.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import block_diag
from typing_extensions import override

import gtddp_jax as gt
from gtddp_jax.core.counted_samples import samples_with_gradient
from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.curvature.base import Curvature, Policy, StageInputs
from gtddp_jax.network.program import AddOp, PlayerOp, Stage
from gtddp_jax.network.protocol import PlayerTape, StageIndex
from gtddp_jax.network.sample_gradients import compute_sample_gradients
from tests.sequential import zoo

Tree = Any
Matrix = jax.Array

RATE, GAMMA = 0.05, 0.3
MODES = ("none", "theorem3", "rescale", "joint")

# What a player contributes.


class Vectors(NamedTuple):
    """The vectors of one player; `shape` is that of its positions."""

    a: jax.Array
    b: jax.Array
    shape: tuple[int, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the player's parameters."""
        return self.a.shape[-1], self.b.shape[-1]


def inputs(module: nn.Module, params: Tree, x: jax.Array) -> jax.Array:
    """The vectors a: what the weights of the first output feature multiply."""

    def first(params: Tree) -> jax.Array:
        out: Any = module.apply({"params": params}, x)
        return out[..., 0].reshape(x.shape[0], -1)

    by = jax.jacfwd(first)(params)
    parts = [by["kernel"][..., 0].reshape(*by["kernel"].shape[:2], -1)]
    if "bias" in by:
        parts.append(by["bias"][..., :1])
    return jnp.concatenate(parts, axis=-1)


def vectors(module: nn.Module, params: Tree, x: jax.Array, v_h: jax.Array) -> Vectors:
    """The vectors of a player with inputs x [B, ...] and weighted adjoints v_h [B, ...]."""
    b = v_h.reshape(v_h.shape[0], -1, v_h.shape[-1])
    return Vectors(inputs(module, params, x), b, v_h.shape[1:-1])


def gradients(v: Vectors) -> jax.Array:
    """`sum_s a b^T` of every sample, [B, rows columns]."""
    return jnp.einsum("bsp,bsq->bpq", v.a, v.b).reshape(v.a.shape[0], -1)


# Flat parameters.


def flat(trees: Mapping[str, Tree], names: Sequence[str]) -> Any:
    """`{player: tree}` as a vector [m]."""
    return jnp.concatenate([trees[n][k].ravel() for n in names for k in _leaves(trees[n])])


def unflat(w: jax.Array, like: Mapping[str, Tree], names: Sequence[str]) -> dict[str, Tree]:
    """The inverse of `flat`."""
    found: dict[str, Tree] = {}
    for n in names:
        found[n] = {}
        for k in _leaves(like[n]):
            size = math.prod(like[n][k].shape)
            found[n][k], w = w[:size].reshape(like[n][k].shape), w[size:]
    return found


def _leaves(tree: Tree) -> tuple[str, ...]:
    return ("kernel", "bias") if "bias" in tree else ("kernel",)


def order(params: Tree, names: Sequence[str]) -> np.ndarray:
    """Where each entry of `flat` stands in `ravel_pytree`, which the dense reference uses."""
    with jax.ensure_compile_time_eval():
        own, unravel = ravel_pytree({name: params[name] for name in names})
        return np.asarray(flat(unravel(jnp.arange(own.size, dtype=own.dtype)), names)).astype(int)


def reordered(p: Matrix, index: np.ndarray) -> Matrix:
    """A matrix over `flat` as one over `ravel_pytree`."""
    back = np.argsort(index)
    return p[back][:, back]


# Own blocks: curvature L and inverse P of one player.


class Own(NamedTuple):
    """One player on its own."""

    curvature: Matrix
    inverse: Matrix


def moment(u: jax.Array, v: jax.Array, *, paired: bool) -> Matrix:
    """`E[u v^T]` over samples and positions, or over samples of position averages."""
    if paired:
        return jnp.einsum("bsp,bsq->pq", u, v) / (u.shape[0] * u.shape[1])
    return jnp.einsum("bp,bq->pq", u.mean(1), v.mean(1)) / u.shape[0]


def summed(v: Vectors) -> jax.Array:
    """The vectors b, scaled so that `E[a a^T] (x) E[b b^T]` belongs to a *sum* over positions."""
    return v.b * math.sqrt(v.b.shape[1])


def factors(v: Vectors) -> tuple[Matrix, Matrix]:
    """A_uu and B_uu."""
    return moment(v.a, v.a, paired=True), moment(summed(v), summed(v), paired=True)


def balance(a: Matrix, b: Matrix, gamma: Any = GAMMA) -> tuple[jax.Array, jax.Array]:
    """What factored damping adds to the diagonals of A_uu and B_uu."""
    pi = jnp.sqrt((jnp.trace(a) / a.shape[0]) / (jnp.trace(b) / b.shape[0]))
    return pi * jnp.sqrt(gamma), jnp.sqrt(gamma) / pi


def spectral(basis: Matrix, values: jax.Array) -> Matrix:
    """The symmetric matrix with these eigenvectors and eigenvalues."""
    return (basis * values[None]) @ basis.T


def kfac(v: Vectors) -> Own:
    """`(A (x) B + gamma I)^-1`."""
    curvature = jnp.kron(*factors(v))
    return Own(curvature, jnp.linalg.inv(curvature + GAMMA * jnp.eye(len(curvature))))


def kfac_factored(v: Vectors) -> Own:
    """`A'^-1 (x) B'^-1`."""
    a, b = factors(v)
    left, right = balance(a, b)
    damped = a + left * jnp.eye(len(a)), b + right * jnp.eye(len(b))
    return Own(jnp.kron(a, b), jnp.linalg.inv(jnp.kron(*damped)))


def ekfac(v: Vectors, decay: float = 0.75) -> Own:
    """Second moments of the mini-batch gradient in the eigenbasis, after the first step."""
    (lambda_a, u_a), (lambda_b, u_b) = (jnp.linalg.eigh(f) for f in factors(v))
    basis, start = jnp.kron(u_a, u_b), jnp.kron(lambda_a, lambda_b)
    q = gradients(v)
    s = decay * start + (1 - decay) * q.shape[0] * jnp.square(basis.T @ q.mean(0))
    return Own(spectral(basis, s), spectral(basis, 1 / (s + GAMMA)))


class Method(NamedTuple):
    """A base method: by formula, and in the library under a cooperative mode."""

    own: Callable[[Vectors], Own]
    curvature: Callable[[str], Curvature]


EVERY: dict[str, Any] = {"factors_every": 1, "refresh_every": 1}


def _library(make: Any, **options: Any) -> Callable[[str], Curvature]:
    return lambda mode: make(RATE, damping=GAMMA, cooperative=mode, **EVERY, **options)


METHODS: dict[str, Method] = {
    "kfac": Method(kfac, _library(gt.curvature.KFAC)),
    "kfac_factored": Method(kfac_factored, _library(gt.curvature.KFAC, damping_form="factored")),
    "ekfac": Method(ekfac, _library(gt.curvature.EKFAC)),
}


# Joint matrices of a stage.


class Joint(NamedTuple):
    """Joint factors and where the players stand in them."""

    a: Matrix
    b: Matrix
    sizes: tuple[tuple[int, int], ...]

    def block(self, u: int, v: int) -> tuple[Matrix, Matrix]:
        """A_uv and B_uv."""
        rows, columns = zip(*self.sizes, strict=True)
        return self.a[_span(rows, u), _span(rows, v)], self.b[_span(columns, u), _span(columns, v)]


def _span(widths: Sequence[int], at: int) -> slice:
    return slice(sum(widths[:at]), sum(widths[: at + 1]))


def joint(players: Sequence[Vectors]) -> Joint:
    """A_ww and B_ww (Eq. 50); positions are paired where outputs have one size."""

    def block(u: Vectors, v: Vectors) -> tuple[Matrix, Matrix]:
        paired = u.shape == v.shape
        return moment(u.a, v.a, paired=paired), moment(summed(u), summed(v), paired=paired)

    blocks = [[block(u, v) for v in players] for u in players]
    return Joint(
        jnp.block([[ab[0] for ab in row] for row in blocks]),
        jnp.block([[ab[1] for ab in row] for row in blocks]),
        tuple(v.size for v in players),
    )


def damped(j: Joint, gamma: Any = GAMMA) -> Joint:
    """Every player's own factored damping on its own diagonal blocks."""
    added = [balance(*j.block(u, u), gamma) for u in range(len(j.sizes))]
    eyes = [
        (left * jnp.eye(p), right * jnp.eye(q))
        for (left, right), (p, q) in zip(added, j.sizes, strict=True)
    ]
    left, right = zip(*eyes, strict=True)
    return Joint(j.a + block_diag(*left), j.b + block_diag(*right), j.sizes)


def restricted(a: Matrix, b: Matrix, sizes: Sequence[tuple[int, int]]) -> Matrix:
    """`A_ww (x) B_ww` where u stands in `[[u, 0], [0, v]]` (Eq. 49, 52)."""
    rows, columns = zip(*sizes, strict=True)
    place = np.arange(sum(rows) * sum(columns)).reshape(sum(rows), -1)
    index = [place[_span(rows, u), _span(columns, u)].ravel() for u in range(len(sizes))]
    index = np.concatenate(index)
    return jnp.kron(a, b)[index][:, index]


def own_blocks(matrix: Matrix, sizes: Sequence[tuple[int, int]]) -> list[Matrix]:
    """The players' diagonal blocks."""
    counts = [p * q for p, q in sizes]
    return [matrix[_span(counts, u), _span(counts, u)] for u in range(len(sizes))]


def root(matrix: Matrix) -> Matrix:
    """The square root of a symmetric positive definite matrix."""
    values, basis = jnp.linalg.eigh((matrix + matrix.T) / 2)
    return spectral(basis, jnp.sqrt(values))


def corrections(d: Joint, own: Sequence[Own]) -> list[Matrix]:
    """C of each player: `C (A' (x) B')^-1 C` is its own P."""
    blocks = own_blocks(restricted(d.a, d.b, d.sizes), d.sizes)
    return [root(player.inverse @ block) for player, block in zip(own, blocks, strict=True)]


def inverse(
    mode: str, players: Sequence[Vectors], own: Sequence[Own], gamma: Any = GAMMA
) -> Matrix:
    """P of a stage whose players do not share their input."""
    if mode == "none" or len(players) == 1:
        return block_diag(*[player.inverse for player in own])
    d = damped(joint(players), gamma)
    if mode == "joint":
        p = jnp.linalg.inv(restricted(d.a, d.b, d.sizes))
    else:
        p = restricted(jnp.linalg.inv(d.a), jnp.linalg.inv(d.b), d.sizes)
        p = block_diag(*own_blocks(p, d.sizes)) if mode == "rescale" else p
    c = block_diag(*corrections(d, own))
    return c @ p @ c


def shared_input_inverse(mode: str, n: int, own: Own) -> Matrix:
    """P of n players that share inputs and adjoints (Fig. 7a) under exact damping."""
    eye = jnp.eye(len(own.curvature))
    q = own.curvature + GAMMA * eye
    if mode == "rescale":  # Eq. 57
        schur = q - own.curvature @ jnp.linalg.inv(q) @ own.curvature
        return jnp.kron(jnp.eye(n), jnp.linalg.inv(schur))
    sign = {"none": 0.0, "theorem3": -1.0, "joint": 1.0}[mode]
    others = sign * (jnp.ones((n, n)) - jnp.eye(n))
    return jnp.linalg.inv(jnp.kron(jnp.eye(n), q) + jnp.kron(others, own.curvature))


# The library at one stage, with random data.


class Data(NamedTuple):
    """The data of a stage: inputs and output adjoints by player, and the weights of samples [B]."""

    x: dict[str, jax.Array]
    g: dict[str, jax.Array]
    alpha: jax.Array


class Table(NamedTuple):
    """A stage, its parameters and its data."""

    stage: Stage
    params: Tree
    data: Data

    @property
    def size(self) -> int:
        """The number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    def vectors(self, data: Data) -> list[Vectors]:
        """The players' vectors."""
        return [
            vectors(
                player_op.module,
                self.params[player_op.name],
                data.x[player_op.name],
                jax.vmap(jnp.multiply)(data.alpha, data.g[player_op.name]),
            )
            for player_op in self.stage.player_ops
        ]


SCALES = (2.0, 0.3), (0.6, 1.5), (1.0, 0.8)
"""Of inputs and adjoints, by player: balances of factored damping that differ."""


def deal(
    seats: Sequence[tuple[nn.Module, tuple[int, ...]]],
    *,
    shared: bool = False,
    batch: int = 3,
    seed: int = 0,
) -> Table:
    """A stage of players u, v, ... with inputs of these shapes, and random data.

    With `shared`, all have one input and their outputs are added (Fig. 7a).
    """
    rng = np.random.default_rng(seed)
    names = "uvw"[: len(seats)]
    params, x, g, player_ops = {}, {}, {}, []
    for i, (name, (module, shape)) in enumerate(zip(names, seats, strict=True)):
        large, small = SCALES[i]
        x[name] = x["u"] if shared and i else jnp.asarray(large * rng.normal(size=(batch, *shape)))
        variables = jax.eval_shape(module.init, jax.random.key(0), x[name])
        params[name] = jax.tree.map(lambda v: jnp.zeros(v.shape), variables["params"])
        out = jax.eval_shape(module.apply, {"params": params[name]}, x[name])
        drawn = jnp.asarray(small * rng.normal(size=out.shape))
        g[name] = g["u"] if shared and i else drawn
        player_ops.append(PlayerOp(name, module, 0 if shared else i, 10 + i))
    targets = tuple(player_op.target for player_op in player_ops)
    ops = (*player_ops, AddOp("sum", targets, 20)) if shared else tuple(player_ops)
    sources = tuple(dict.fromkeys(player_op.source for player_op in player_ops))
    stage = Stage(ops, sources, (20,) if shared else targets)
    return Table(stage, params, Data(x, g, jnp.asarray(rng.uniform(0.5, 1.5, size=batch))))


plain = functools.partial(nn.Dense, use_bias=False)

TABLES: dict[str, Callable[[], Table]] = {
    "pair": lambda: deal([(nn.Dense(3), (2,)), (plain(2), (4,))]),
    "three": lambda: deal([(nn.Dense(3), (2,)), (plain(2), (4,)), (nn.Dense(1), (1,))]),
    "tokens": lambda: deal([(nn.Dense(2), (3, 2)), (nn.Dense(3), (3, 1))]),
    "paired": lambda: deal(
        [(zoo.conv(2, (2, 2)), (3, 2, 1)), (zoo.conv(3, (1, 1), use_bias=False), (3, 2, 2))]
    ),
    "averaged": lambda: deal(
        [(zoo.conv(2, (2, 2)), (4, 2, 1)), (zoo.conv(3, (1, 1), strides=2), (4, 2, 2))]
    ),
    "turned": lambda: deal([(zoo.conv(2, (1, 2)), (3, 2, 1)), (zoo.conv(2, (2, 1)), (2, 3, 1))]),
    "mixed": lambda: deal(
        [
            (zoo.conv(2, (2, 1)), (2, 2, 1)),
            (nn.Dense(2), (3,)),
            (zoo.conv(1, (1, 1)), (2, 2, 2)),
        ]
    ),
}
"""Stages whose players do not share inputs: all positions paired, none, and some."""


FEW = (
    ("kfac", "joint"),
    ("kfac_factored", "theorem3"),
    ("ekfac", "rescale"),
)


def cases() -> list[tuple[str, str]]:
    """All methods and modes."""
    return [(method, mode) for method in METHODS for mode in MODES]


def stage_inputs(table: Table, data: Data, axis_name: Any = None) -> StageInputs:
    """What the library's curvature sees of this stage."""
    tapes = {}
    for player_op in table.stage.player_ops:
        x, g = data.x[player_op.name], data.g[player_op.name]
        player_params = table.params[player_op.name]
        gradients = compute_sample_gradients(
            player_op.module, player_op.apply, player_params, x, g, feedback=True
        )
        tapes[player_op.name] = PlayerTape(x, g, gradients)
    samples = SampleReductions(data.alpha.size, axis_name)
    sums = {n: tape.sample_gradients.weighted_sum(data.alpha) for n, tape in tapes.items()}
    gradient: Any = samples.mean_of_sums(sums)
    stage_index = StageIndex(table.stage, 0, 1)
    counted = samples_with_gradient(samples, jnp.full(data.alpha.shape, True))
    return StageInputs(gradient, table.params, tapes, data.alpha, stage_index, counted)


def policy(
    curvature: Curvature, table: Table, data: Data, state: Any = None, axis_name: Any = None
) -> Any:
    """The library's policy for this stage; of the first step unless a state is given."""
    inputs = stage_inputs(table, data, axis_name)
    state = curvature.init(table.params, inputs.stage_index) if state is None else state
    return curvature.policy(inputs, state)


def images(found: Policy, params: Tree, names: Sequence[str], columns: Matrix) -> Matrix:
    """`P columns`, from the steps that a policy takes when the columns are closed gradients."""
    zero = jax.tree.map(jnp.zeros_like, found.open_gain)

    def one(column: jax.Array) -> jax.Array:
        step, _ = found.closed_loop_step(zero, unflat(column, params, names))
        return flat(found.open_gain, names) - flat(step, names)

    return jax.vmap(one, 1, 1)(columns)


def dense(found: Policy, table: Table) -> Matrix:
    """The library's P, with the rate."""
    return images(found, table.params, table.stage.players, jnp.eye(table.size))


class Recorder(Curvature):
    """Delegates to another curvature and keeps the policy of each stage."""

    def __init__(self, inner: Curvature) -> None:
        self.inner = inner
        self.policies: dict[int, Policy] = {}

    @override
    def init(self, params: Tree, stage_index: StageIndex) -> Any:
        return self.inner.init(params, stage_index)

    @override
    def policy(self, inputs: StageInputs, state: Any) -> Policy:
        found = self.inner.policy(inputs, state)
        self.policies[inputs.stage_index.number] = found
        return found


def error(got: Any, want: Any) -> float:
    """The largest difference of two arrays, relative to the largest entry that is wanted."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape and np.abs(want).max() > 0
    return float(np.abs(got - want).max() / np.abs(want).max())
