"""GT-DDP optimizers named after their base method, in optax's argument order.

Each takes every keyword of `gtddp` (`feedback`, `terminal`, `rollout`, `own_curvature`,
`axis_name`, `batch_stats`) and is, with `feedback=False`, the optax optimizer of its name. The
keywords are written out, not `**game`: `optax.inject_hyperparams` reads them from the signature.
"""

from collections.abc import Callable
from typing import Any

import optax
from jax.typing import DTypeLike

from gtddp_jax import curvature
from gtddp_jax.core.types import AxisName, Loss, Number, Rate, Tree
from gtddp_jax.network.protocol import Playable
from gtddp_jax.optimizer import gtddp
from gtddp_jax.terminal import Terminal


def sgd(
    net: Playable,
    loss: Loss,
    learning_rate: Rate,
    momentum: Number | None = None,
    nesterov: bool = False,
    accumulator_dtype: DTypeLike | None = None,
    *,
    feedback: bool = True,
    terminal: Terminal | None = None,
    rollout: str = "linear",
    own_curvature: bool = False,
    axis_name: AxisName = None,
    batch_stats: Tree = None,
) -> optax.GradientTransformationExtraArgs:
    """GT-DDP-SGD: `gtddp` with `curvature.identity`.

    Args:
        net: the network.
        loss: `loss(outputs, targets) -> [B]`.
        learning_rate: a number or an optax schedule.
        momentum: decay of the momentum, or None.
        nesterov: whether the momentum is Nesterov's.
        accumulator_dtype: dtype of the momentum, or None.
        feedback: see `gtddp`.
        terminal: see `gtddp`.
        rollout: see `gtddp`.
        own_curvature: see `gtddp`.
        axis_name: see `gtddp`.
        batch_stats: see `gtddp`.

    Example:
        >>> import flax.linen as nn, gtddp_jax as gt, optax
        >>> net = gt.Network([nn.Dense(2)])
        >>> tx = gt.sgd(net, optax.softmax_cross_entropy_with_integer_labels, 1e-2, momentum=0.9)
    """
    base = curvature.identity(learning_rate, momentum, nesterov, accumulator_dtype)
    return gtddp(
        net,
        loss,
        base,
        feedback=feedback,
        terminal=terminal,
        rollout=rollout,
        own_curvature=own_curvature,
        axis_name=axis_name,
        batch_stats=batch_stats,
    )


def rmsprop(
    net: Playable,
    loss: Loss,
    learning_rate: Rate,
    decay: Number = 0.9,
    eps: Number = 1e-8,
    initial_scale: Number = 0.0,
    eps_in_sqrt: bool = True,
    momentum: Number | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    *,
    feedback: bool = True,
    terminal: Terminal | None = None,
    rollout: str = "linear",
    own_curvature: bool = False,
    axis_name: AxisName = None,
    batch_stats: Tree = None,
) -> optax.GradientTransformationExtraArgs:
    """GT-DDP-RMSprop: `gtddp` with `curvature.rmsprop`, whose arguments these are.

    Example:
        >>> import flax.linen as nn, gtddp_jax as gt, optax
        >>> net = gt.Network([nn.Dense(2)])
        >>> tx = gt.rmsprop(net, optax.softmax_cross_entropy_with_integer_labels, 1e-3)
    """
    base = curvature.rmsprop(
        learning_rate,
        decay,
        eps,
        initial_scale,
        eps_in_sqrt,
        momentum,
        nesterov,
        bias_correction,
    )
    return gtddp(
        net,
        loss,
        base,
        feedback=feedback,
        terminal=terminal,
        rollout=rollout,
        own_curvature=own_curvature,
        axis_name=axis_name,
        batch_stats=batch_stats,
    )


def adam(
    net: Playable,
    loss: Loss,
    learning_rate: Rate,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = False,
    feedback: bool = True,
    terminal: Terminal | None = None,
    rollout: str = "linear",
    own_curvature: bool = False,
    axis_name: AxisName = None,
    batch_stats: Tree = None,
) -> optax.GradientTransformationExtraArgs:
    """GT-DDP-Adam: `gtddp` with `curvature.adam`, whose arguments these are.

    Example:
        >>> import flax.linen as nn, gtddp_jax as gt, optax
        >>> net = gt.Network([nn.Dense(2)])
        >>> tx = gt.adam(net, optax.softmax_cross_entropy_with_integer_labels, 1e-3)
    """
    base = curvature.adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov)
    return gtddp(
        net,
        loss,
        base,
        feedback=feedback,
        terminal=terminal,
        rollout=rollout,
        own_curvature=own_curvature,
        axis_name=axis_name,
        batch_stats=batch_stats,
    )


def adamw(
    net: Playable,
    loss: Loss,
    learning_rate: Rate,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: DTypeLike | None = None,
    weight_decay: Number = 1e-4,
    mask: Callable[[Tree], Tree] | None = None,
    *,
    nesterov: bool = False,
    feedback: bool = True,
    terminal: Terminal | None = None,
    rollout: str = "linear",
    own_curvature: bool = False,
    axis_name: AxisName = None,
    batch_stats: Tree = None,
) -> optax.GradientTransformationExtraArgs:
    """GT-DDP-AdamW: `gtddp` with `curvature.adam` and decoupled weight decay.

    Example:
        >>> import flax.linen as nn, gtddp_jax as gt, optax
        >>> net = gt.Network([nn.Dense(2)])
        >>> tx = gt.adamw(net, optax.softmax_cross_entropy_with_integer_labels, 1e-3)
    """
    base = curvature.adam(
        learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov, weight_decay, mask
    )
    return gtddp(
        net,
        loss,
        base,
        feedback=feedback,
        terminal=terminal,
        rollout=rollout,
        own_curvature=own_curvature,
        axis_name=axis_name,
        batch_stats=batch_stats,
    )


def kfac(
    net: Playable,
    loss: Loss,
    learning_rate: Rate,
    damping: Rate = 1e-2,
    momentum: Number | None = None,
    *,
    feedback: bool = True,
    terminal: Terminal | None = None,
    rollout: str = "linear",
    own_curvature: bool = False,
    axis_name: AxisName = None,
    batch_stats: Tree = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """GT-DDP-KFAC: `gtddp` with `curvature.kfac`, which takes the further `options`.

    Example:
        >>> import flax.linen as nn, gtddp_jax as gt, optax
        >>> net = gt.Network([nn.Dense(2)])
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> tx = gt.kfac(net, loss, 1e-2, damping=1e-2, refresh_every=50)
    """
    base = curvature.kfac(learning_rate, damping, momentum, **options)
    return gtddp(
        net,
        loss,
        base,
        feedback=feedback,
        terminal=terminal,
        rollout=rollout,
        own_curvature=own_curvature,
        axis_name=axis_name,
        batch_stats=batch_stats,
    )


def ekfac(
    net: Playable,
    loss: Loss,
    learning_rate: Rate,
    damping: Rate = 1e-2,
    momentum: Number | None = None,
    *,
    feedback: bool = True,
    terminal: Terminal | None = None,
    rollout: str = "linear",
    own_curvature: bool = False,
    axis_name: AxisName = None,
    batch_stats: Tree = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """GT-DDP-EKFAC: `gtddp` with `curvature.ekfac`, which takes the further `options`.

    With `feedback=False` it is EKFAC, and with `cooperative="rescale"` (or another mode) beside it
    GT-EKFAC, the paper's game-theoretic second-order method without feedback (Sec. 6).

    Example:
        >>> import flax.linen as nn, gtddp_jax as gt, optax
        >>> net = gt.Network([gt.Cooperative([nn.Dense(2), nn.Dense(2)])])
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> tx = gt.ekfac(net, loss, 1e-2, damping=1e-2, cooperative="rescale", feedback=False)
    """
    base = curvature.ekfac(learning_rate, damping, momentum, **options)
    return gtddp(
        net,
        loss,
        base,
        feedback=feedback,
        terminal=terminal,
        rollout=rollout,
        own_curvature=own_curvature,
        axis_name=axis_name,
        batch_stats=batch_stats,
    )


def scale_by_gt_ekfac(
    net: Playable,
    loss: Loss,
    damping: Rate = 1e-2,
    *,
    cooperative: str = "rescale",
    axis_name: AxisName = None,
    batch_stats: Tree = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """The gradient under GT-EKFAC's curvature, without feedback, for an optax chain (Sec. 6).

    Like other `scale_by_` transformations it has no learning rate and does not change the sign.

    Args:
        net: the network.
        loss: `loss(outputs, targets) -> [B]`.
        damping: see `curvature.ekfac`.
        cooperative: how players who act at once know of each other, see `curvature.ekfac`.
        axis_name: see `gtddp`.
        batch_stats: see `gtddp`.
        **options: further options of `curvature.ekfac`.

    Example:
        >>> import flax.linen as nn, gtddp_jax as gt, optax
        >>> net = gt.Network([gt.Cooperative([nn.Dense(2), nn.Dense(2)])])
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> scale = gt.scale_by_gt_ekfac(net, loss, damping=1e-2)
        >>> tx = optax.chain(scale, optax.trace(0.9), optax.scale_by_learning_rate(1e-2))
    """
    base = curvature.ekfac(1.0, damping, cooperative=cooperative, **options)
    step = gtddp(net, loss, base, feedback=False, axis_name=axis_name, batch_stats=batch_stats)
    return optax.chain(step, optax.scale(-1.0))
