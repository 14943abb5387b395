"""`paper_gtddp`: the sequential game exactly as published, without this library's own choices."""

import dataclasses

import optax

from gtddp_jax.core.types import AxisName, Loss, Tree
from gtddp_jax.curvature import Curvature, FromOptax
from gtddp_jax.curvature.diagonal import DiagonalCurvature
from gtddp_jax.network.protocol import StagedNetwork
from gtddp_jax.sequential.optimizer import gtddp
from gtddp_jax.terminal import GradientHessian


def paper_gtddp(
    net: StagedNetwork,
    loss: Loss | None,
    curvature: Curvature,
    *,
    axis_name: AxisName = None,
    batch_stats: Tree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """GT-DDP as in Liu, Chen and Theodorou (2020): Alg. 1 with Table 1 and Eq. 6 and 9.

    It is `gtddp` with the nonlinear rollout, the Gauss-Newton Hessian of the gradient as the
    terminal model without bounds, and one preconditioner per stage, made from the open gradient
    (`statistics="open"`). The defaults of `gtddp` differ in all three, because they train better:
    nothing bounds a weight `1 + g . dx` of this game, so it runs away where a step changes a loss
    by more than it is worth. That happens at learning rates at which the base method still trains,
    soonest with RMSprop and Adam, whose first steps are long. Such steps are skipped once they are
    not finite, and reported; see `Report.sample_weight_max` before that.

    Args:
        net: as in `gtddp`.
        loss: as in `gtddp`.
        curvature: the base method; its `statistics`, if it has such a field, become "open".
        axis_name: as in `gtddp`.
        batch_stats: as in `gtddp`.

    Returns:
        What `gtddp` returns.

    Raises:
        ValueError: as in `gtddp`.

    Example:
        >>> import flax.linen as nn, optax
        >>> import gtddp_jax as gt
        >>> net = gt.Network([nn.Dense(8), nn.tanh, nn.Dense(3)])
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> tx = gt.paper_gtddp(net, loss, gt.curvature.RMSProp(1e-3))
    """
    if isinstance(curvature, (DiagonalCurvature, FromOptax)):
        curvature = dataclasses.replace(curvature, statistics="open")
    return gtddp(
        net,
        loss,
        curvature,
        terminal=GradientHessian(),
        rollout="nonlinear",
        axis_name=axis_name,
        batch_stats=batch_stats,
    )
