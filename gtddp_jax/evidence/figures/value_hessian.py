"""The value Hessian of a whole batch, exactly and without ever being formed (DESIGN §4).

| symbol | meaning                                                                  | shape       |
|--------|--------------------------------------------------------------------------|-------------|
| x'_t   | the live states of all samples before stage t, side by side               | B n         |
| R      | outputs of a sample                                                       |             |
| Z_t    | derivative of all B R outputs by x'_t, by backpropagation                 | [B R, B, n] |
| U_t    | derivative of all outputs by the parameters of stage t                    | [B R, m]    |
| M_t    | V_x'x' = Z^T M Z; at the outputs M_T = (1/B) diag of the losses' Hessians | [B R, B R]  |
| P      | (Q_uu)^-1 = learning rate x identity (Table 1, SGD)                       |             |

`V <- f_x^T V f_x - f_x^T V f_u P f_u^T V f_x` is then `M <- M - M U P U^T M`, with no
approximation: Jacobians act on whole batches, so that batch normalisation, which couples samples,
is covered. With the layer's own curvature kept, `Q_uu = P^-1 + f_u^T V f_u` (Eq. 25), it is
`M <- (I + M U P U^T)^-1 M`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import block_diag

import gtddp_jax as gt
from gtddp_jax.network.program import Stage
from gtddp_jax.training.tables import look_up

Tree = Any
Shrink = Callable[[jax.Array, jax.Array], jax.Array]

CURVATURES: dict[str, Shrink] = {
    "base": lambda middle, gram: middle - middle @ gram @ middle,
    "own": lambda middle, gram: jnp.linalg.solve(jnp.eye(len(gram)) + middle @ gram, middle),
}
"""What a stage does to M, given `U P U^T`: Q_uu the base method's, or with the own curvature."""


class ValueHessian(NamedTuple):
    """V_x'x' before one stage.

    Attributes:
        outer: Z [K, B, n], K = B R.
        middle: M [K, K].
        next_middle: M after the stage, [K, K].
        gradients: U of the stage [K, m]; of the last entry, after all stages, [K, 0].
    """

    outer: jax.Array
    middle: jax.Array
    next_middle: jax.Array
    gradients: jax.Array

    def energy(self) -> jax.Array:
        """The squared Frobenius norm of each block, [B, B]."""
        grams = jnp.einsum("kbn,lbn->bkl", self.outer, self.outer)
        half = jnp.einsum("kl,blm->bkm", self.middle, grams)
        return jnp.einsum("bkl,clk->bc", half, half)

    def diagonal_share(self) -> jax.Array:
        """The share of the energy that is in the diagonal blocks."""
        energy = self.energy()
        return jnp.trace(energy) / energy.sum()

    def coupling(self) -> jax.Array:
        """Mean over pairs of samples of |V_ij| / sqrt(|V_ii| |V_jj|), Frobenius norms.

        Unlike the share it does not depend on how large single samples' blocks are.
        """
        norm = jnp.sqrt(self.energy())
        scale = jnp.sqrt(jnp.outer(jnp.diag(norm), jnp.diag(norm)))
        relative = jnp.where(scale > 0, norm / jnp.where(scale > 0, scale, 1.0), 0.0)
        count = len(norm) * (len(norm) - 1)
        return (relative.sum() - jnp.trace(relative)) / count

    def dense(self) -> jax.Array:
        """V_x'x' itself, [B n, B n], sample by sample."""
        outer = self.outer.reshape(len(self.middle), -1)
        return outer.T @ self.middle @ outer

    def leading_right(self) -> tuple[jax.Array, jax.Array]:
        """The leading right singular vector of `Q_ux = U^T M_next Z`, and how it dominates.

        The feedback gain is `-P Q_ux`, with the same right singular vectors where P is a multiple
        of the identity.

        Returns:
            The vector [B, n], of norm 1 and any sign, and the share of the leading singular value
            in the sum of squares of all.
        """
        root = jnp.linalg.qr(self.gradients.T, mode="r") @ self.next_middle  # [<= K, K]
        outer = self.outer.reshape(len(self.middle), -1)
        q, r = jnp.linalg.qr(outer.T)  # [B n, K], [K, K]
        _, values, vectors = jnp.linalg.svd(root @ r.T, full_matrices=False)
        share = values[0] ** 2 / (values**2).sum()
        return (q @ vectors[0]).reshape(self.outer.shape[1:]), share


def value_hessians(
    stages: Sequence[Stage],
    params: Tree,
    inputs: jax.Array,
    loss: Callable[[jax.Array], jax.Array],
    learning_rate: float,
    *,
    hessian: str = "exact",
    curvature: str = "base",
    samples: int | None = None,
) -> list[ValueHessian]:
    """V_x'x' before every stage and after the last one.

    Args:
        stages: the dynamics; for a network with batch normalisation from `Network.bind`.
        params: `{player: tree}`.
        inputs: [B, ...].
        loss: outputs [B, R] -> [B].
        learning_rate: of P.
        hessian: the terminal model, a key of `gtddp_jax.reference.HESSIANS`.
        curvature: a key of `CURVATURES`.
        samples: over how many samples the objective is a mean; None for B. With one input and
            `samples=B` the result is one block of the block-diagonal recursion of GT-DDP.

    Raises:
        ValueError: unknown `hessian` or `curvature`.
    """
    model = look_up(gt.reference.HESSIANS, hessian, "hessian")
    shrink = look_up(CURVATURES, curvature, "curvature")
    pullbacks: list[Callable[[Any], Any]] = []
    states: tuple[jax.Array, ...] = (inputs,)
    for stage in stages:
        own = {name: params[name] for name in stage.players}

        def move(own: Tree, states: Any, stage: Stage = stage) -> Any:
            return stage({**params, **own}, states)

        states, pullback = jax.vjp(move, own, states)
        pullbacks.append(pullback)
    (outputs,) = states
    batch, size = len(outputs), outputs.size
    flat = outputs.reshape(batch, -1)

    def flat_loss(flat: jax.Array) -> jax.Array:
        return loss(flat.reshape(outputs.shape))

    middle = block_diag(*model(flat_loss, flat)) / (samples or batch)
    adjoints: Any = (jnp.eye(size, dtype=outputs.dtype).reshape(size, *outputs.shape),)
    nothing = jnp.zeros((size, 0), outputs.dtype)
    found = [ValueHessian(_together(adjoints), middle, middle, nothing)]
    for pullback in reversed(pullbacks):
        moves, adjoints = jax.vmap(pullback)(adjoints)
        gradients = jax.vmap(lambda tree: ravel_pytree(tree)[0])(moves)
        after, middle = middle, shrink(middle, learning_rate * gradients @ gradients.T)
        found.insert(0, ValueHessian(_together(adjoints), middle, after, gradients))
    return found


def _together(adjoints: tuple[jax.Array, ...]) -> jax.Array:
    """The live states side by side: [K, B, n]."""
    return jnp.concatenate([a.reshape(*a.shape[:2], -1) for a in adjoints], axis=2)
