"""The value Hessian of a whole batch, exact and in factored form.

| symbol | meaning                                                                  | shape       |
|--------|--------------------------------------------------------------------------|-------------|
| x'_t   | live states of all samples before stage t, side by side                   | B n         |
| R      | number of outputs per sample                                              |             |
| Z_t    | derivative of all B R outputs by x'_t, by backpropagation                 | [B R, B, n] |
| U_t    | derivative of all outputs by the parameters of stage t                    | [B R, m]    |
| M_t    | V_x'x' = Z^T M Z; at the outputs M_T = (1/B) diag of the losses' Hessians | [B R, B R]  |
| P      | (Q_uu)^-1 = learning rate x identity (Table 1, SGD)                       |             |

The recursion `V <- f_x^T V f_x - f_x^T V f_u P f_u^T V f_x` becomes `M <- M - M U P U^T M` without
any approximation. Jacobians act on whole batches, so this covers batch normalisation, which couples
samples. With the self-response of a stage, `Q_uu = P^-1 + f_u^T V f_u` (Eq. 25), the recursion is
`M <- (I + M U P U^T)^-1 M`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import block_diag

import gtddp_jax as gt
from gtddp_lab.core.look_up import look_up
from gtddp_lab.training.state import Params

MiddleUpdate: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]

MIDDLE_UPDATES: dict[str, MiddleUpdate] = {
    "base": lambda middle, gram: middle - middle @ gram @ middle,
    "self_response": lambda middle, gram: jnp.linalg.solve(
        jnp.eye(len(gram)) + middle @ gram, middle
    ),
}
"""Updates of M by a stage, given `U P U^T`: Q_uu of the base, or with the self-response."""


class ValueHessian(NamedTuple):
    """V_x'x' before one stage.

    Attributes:
        outer: Z [K, B, n] with K = B R.
        middle: M [K, K].
        next_middle: M after the stage, [K, K].
        gradients: U of the stage [K, m]; [K, 0] after the last stage.
    """

    outer: jax.Array
    middle: jax.Array
    next_middle: jax.Array
    gradients: jax.Array

    def block_energies(self) -> jax.Array:
        """Return the squared Frobenius norm of each block, [B, B]."""
        # Z_b Z_b^T for each sample, so that V itself is never formed.
        grams = jnp.einsum("kbn,lbn->bkl", self.outer, self.outer)
        # |Z_b^T M Z_c|^2 = trace(M (Z_c Z_c^T) M (Z_b Z_b^T)).
        half = jnp.einsum("kl,blm->bkm", self.middle, grams)
        return jnp.einsum("bkl,clk->bc", half, half)

    def diagonal_share(self) -> jax.Array:
        """Return the share of the squared Frobenius norm in the diagonal blocks."""
        energies = self.block_energies()
        return jnp.trace(energies) / energies.sum()

    def sample_coupling(self) -> jax.Array:
        """Return the mean over pairs of samples of |V_ij| / sqrt(|V_ii| |V_jj|), Frobenius norms.

        Unlike the diagonal share, it does not depend on the sizes of the samples' blocks.
        """
        norms = jnp.sqrt(self.block_energies())
        scale = jnp.sqrt(jnp.outer(jnp.diag(norms), jnp.diag(norms)))
        relative = jnp.where(scale > 0, norms / jnp.where(scale > 0, scale, 1.0), 0.0)
        count = len(norms) * (len(norms) - 1)
        return (relative.sum() - jnp.trace(relative)) / count

    def dense_matrix(self) -> jax.Array:
        """Return V_x'x' itself, [B n, B n], sample by sample."""
        outer = self.outer.reshape(len(self.middle), -1)
        return outer.T @ self.middle @ outer

    def leading_singular_vector(self) -> tuple[jax.Array, jax.Array]:
        """Return the leading right singular vector of `Q_ux = U^T M_next Z` and its share.

        If P is a multiple of the identity, the feedback gain `-P Q_ux` has the same right singular
        vectors.

        Returns:
            The vector [B, n], of norm 1 and arbitrary sign, and the share of its singular value in
            the sum of squares of all.
        """
        # QR factors replace the large matrices without changing singular values.
        root = jnp.linalg.qr(self.gradients.T, mode="r") @ self.next_middle  # [<= K, K]
        outer = self.outer.reshape(len(self.middle), -1)
        q, r = jnp.linalg.qr(outer.T)  # [B n, K], [K, K]
        _, values, vectors = jnp.linalg.svd(root @ r.T, full_matrices=False)
        share = values[0] ** 2 / (values**2).sum()
        return (q @ vectors[0]).reshape(self.outer.shape[1:]), share


def value_hessians(
    stages: Sequence[gt.Stage],
    params: Params,
    inputs: jax.Array,
    loss: Callable[[jax.Array], jax.Array],
    learning_rate: float,
    *,
    hessian: str = "exact",
    curvature: str = "base",
    samples: int | None = None,
) -> list[ValueHessian]:
    """Compute V_x'x' before every stage and after the last one.

    Args:
        stages: the dynamics; for a network with batch normalisation those of `Network.bind`.
        params: `{player: tree}`.
        inputs: [B, ...].
        loss: outputs [B, R] -> [B].
        learning_rate: the learning rate, which determines P.
        hessian: the terminal model, a key of `gtddp_jax.reference.HESSIANS`.
        curvature: a key of `MIDDLE_UPDATES`.
        samples: number of samples of the objective's mean; None for B. With one input and
            `samples=B`, the result is one block of the block-diagonal recursion of GT-DDP.

    Raises:
        ValueError: unknown `hessian` or `curvature`.
    """
    terminal_hessian = look_up(gt.reference.HESSIANS, hessian, "hessian")
    update_middle = look_up(MIDDLE_UPDATES, curvature, "curvature")
    pullbacks: list[Callable[[Any], Any]] = []
    states: tuple[jax.Array, ...] = (inputs,)
    for stage in stages:
        stage_params = {name: params[name] for name in stage.players}

        def run_stage(
            stage_params: Params, states: Any, stage: gt.Stage = stage
        ) -> tuple[jax.Array, ...]:
            return stage({**params, **stage_params}, states)

        states, pullback = jax.vjp(run_stage, stage_params, states)
        pullbacks.append(pullback)
    (outputs,) = states
    batch, size = len(outputs), outputs.size
    flat = outputs.reshape(batch, -1)

    def flat_loss(flat: jax.Array) -> jax.Array:
        return loss(flat.reshape(outputs.shape))

    middle = block_diag(*terminal_hessian(flat_loss, flat)) / (samples or batch)
    # The adjoints of all B R outputs at once start as the identity.
    adjoints: Any = (jnp.eye(size, dtype=outputs.dtype).reshape(size, *outputs.shape),)
    nothing = jnp.zeros((size, 0), outputs.dtype)
    hessians = [ValueHessian(_join_states(adjoints), middle, middle, nothing)]
    for pullback in reversed(pullbacks):
        parameter_derivatives, adjoints = jax.vmap(pullback)(adjoints)
        gradients = jax.vmap(lambda tree: ravel_pytree(tree)[0])(parameter_derivatives)
        # Q_uu^-1 enters as U P U^T; V of the stage follows in factored form.
        after, middle = middle, update_middle(middle, learning_rate * gradients @ gradients.T)
        hessians.insert(0, ValueHessian(_join_states(adjoints), middle, after, gradients))
    return hessians


def _join_states(adjoints: tuple[jax.Array, ...]) -> jax.Array:
    """Concatenate the live states: [K, B, n]."""
    return jnp.concatenate(
        [adjoint.reshape(*adjoint.shape[:2], -1) for adjoint in adjoints], axis=2
    )
