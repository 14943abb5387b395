"""GT-DDP optimizers named after their base method, in optax's argument order.

Each alias takes the arguments of its curvature and the keyword arguments of `gtddp`. With
`equilibrium="open_loop"` it is the optax optimizer of the same name.

The keyword arguments of `gtddp` are typed once, by `GameOptions`. The decorator `game_alias` copies
their defaults into the signature of each alias, which `optax.inject_hyperparams` reads, and the
documentation of all arguments into its docstring.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, TypeVar

import optax
from jax.typing import DTypeLike
from typing_extensions import Unpack

from gtddp_jax import curvature
from gtddp_jax.core.transformation import game_transformation
from gtddp_jax.core.types import AxisName, Loss, Number, Rate, Tree
from gtddp_jax.curvature.diagonal import DiagonalCurvature
from gtddp_jax.network.protocol import StagedNetwork
from gtddp_jax.sequential.optimizer import gtddp
from gtddp_jax.terminal import TerminalModel

Alias = TypeVar("Alias", bound=Callable[..., optax.GradientTransformationExtraArgs])


class GameOptions(TypedDict, total=False):
    """The keyword arguments of `gtddp`, documented there."""

    equilibrium: str
    terminal: TerminalModel | None
    rollout: str
    self_response: bool
    axis_name: AxisName
    batch_stats: Tree | None


# `cooperative` is missing, because `scale_by_gt_ekfac` has it as an argument of its own.
class KroneckerOptions(TypedDict, total=False):
    """The options that `curvature.KFAC` and `curvature.EKFAC` share, documented there."""

    nesterov: bool
    weight_decay: Number | None
    norm_constraint: Number | None
    factor_decay: float
    factors_every: int
    refresh_every: int
    stagger: bool
    positions: str
    other: DiagonalCurvature | None
    full_limit: int
    window_rows: int


class EKFACOptions(KroneckerOptions, total=False):
    """The options of `curvature.EKFAC`, documented there."""

    mode: str
    scale_decay: float


class KFACGameOptions(GameOptions, KroneckerOptions, total=False):
    """The keyword arguments of `gtddp` and of `curvature.KFAC`."""

    cooperative: str
    damping_form: str


class EKFACGameOptions(GameOptions, EKFACOptions, total=False):
    """The keyword arguments of `gtddp` and of `curvature.EKFAC`."""

    cooperative: str


def game_alias(base: type[curvature.Curvature]) -> Callable[[Alias], Alias]:
    """Completes the signature and the documentation of an alias.

    The keyword arguments of `gtddp` replace `**game` in its signature. The description of each
    argument is copied from the docstring of `gtddp` or of the curvature.

    Args:
        base: the curvature of the alias.
    """
    game_signature = inspect.signature(gtddp)
    base_documentation = _argument_documentation(base)
    documentation = _argument_documentation(gtddp) | base_documentation

    def decorate(alias: Alias) -> Alias:
        signature = inspect.signature(alias)
        parameters, options = [], []
        for parameter in signature.parameters.values():
            # Of `**keywords`, only the further options of a curvature stay in the signature.
            if parameter.kind is not parameter.VAR_KEYWORD:
                parameters.append(parameter)
            elif parameter.annotation != Unpack[GameOptions]:
                options.append(parameter)
        parameters += [
            parameter
            for parameter in game_signature.parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        ]
        described = [parameter.name for parameter in parameters]
        if options:  # `**options` stands for all further arguments of the curvature
            described += [name for name in base_documentation if name not in described]
        entries = [documentation[name] for name in described if name in documentation]
        # `inspect.signature` reads this attribute; calls still bind the function's own parameters.
        function: Any = alias
        function.__signature__ = signature.replace(parameters=[*parameters, *options])
        if alias.__doc__ is not None:  # python -OO strips docstrings
            text, _, example = inspect.cleandoc(alias.__doc__).partition("Example:\n")
            function.__doc__ = f"{text}Args:\n{''.join(entries)}\nExample:\n{example}\n"
        return alias

    return decorate


def _argument_documentation(documented: Callable[..., Any]) -> dict[str, str]:
    """The entries of the section "Args:" of a docstring, by argument."""
    _, _, section = inspect.cleandoc(documented.__doc__ or "").partition("Args:\n")
    entries: dict[str, str] = {}
    name = ""
    for line in section.splitlines(keepends=True):
        if not line.startswith("    "):  # the next section, or an empty line before it
            break
        # Four spaces start an entry, more continue it.
        if not line.startswith("     "):
            name = line.partition(":")[0].strip()
        entries[name] = entries.get(name, "") + line
    return entries


def _split_options(options: Mapping[str, object]) -> tuple[GameOptions, dict[str, Any]]:
    """The keyword arguments of `gtddp`, and those of the curvature."""
    # Unknown names go to the curvature, whose constructor refuses them.
    game: Any = {name: options[name] for name in options if name in GameOptions.__annotations__}
    return game, {name: options[name] for name in options if name not in game}


@game_alias(curvature.SGD)
def sgd(
    net: StagedNetwork,
    loss: Loss | None,
    learning_rate: Rate,
    momentum: Number | None = None,
    nesterov: bool = False,
    accumulator_dtype: DTypeLike | None = None,
    *,
    statistics: str = "closed",
    **game: Unpack[GameOptions],
) -> optax.GradientTransformationExtraArgs:
    """GT-DDP-SGD: `gtddp` with `curvature.SGD`.

    Example:
        >>> import flax.linen as nn, gtddp_jax as gt, optax
        >>> net = gt.Network([nn.Dense(2)])
        >>> tx = gt.sgd(net, optax.softmax_cross_entropy_with_integer_labels, 1e-2, momentum=0.9)
    """
    base = curvature.SGD(
        learning_rate, momentum, nesterov, accumulator_dtype, statistics=statistics
    )
    return gtddp(net, loss, base, **game)


@game_alias(curvature.RMSProp)
def rmsprop(
    net: StagedNetwork,
    loss: Loss | None,
    learning_rate: Rate,
    decay: Number = 0.9,
    eps: Number = 1e-8,
    initial_scale: Number = 0.0,
    eps_in_sqrt: bool = True,
    momentum: Number | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    *,
    statistics: str = "closed",
    **game: Unpack[GameOptions],
) -> optax.GradientTransformationExtraArgs:
    """GT-DDP-RMSprop: `gtddp` with `curvature.RMSProp`.

    Example:
        >>> import flax.linen as nn, gtddp_jax as gt, optax
        >>> net = gt.Network([nn.Dense(2)])
        >>> tx = gt.rmsprop(net, optax.softmax_cross_entropy_with_integer_labels, 1e-3)
    """
    base = curvature.RMSProp(
        learning_rate,
        decay,
        eps,
        initial_scale,
        eps_in_sqrt,
        momentum,
        nesterov,
        bias_correction,
        statistics=statistics,
    )
    return gtddp(net, loss, base, **game)


@game_alias(curvature.Adam)
def adam(
    net: StagedNetwork,
    loss: Loss | None,
    learning_rate: Rate,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = False,
    statistics: str = "closed",
    **game: Unpack[GameOptions],
) -> optax.GradientTransformationExtraArgs:
    """GT-DDP-Adam: `gtddp` with `curvature.Adam`.

    Example:
        >>> import flax.linen as nn, gtddp_jax as gt, optax
        >>> net = gt.Network([nn.Dense(2)])
        >>> tx = gt.adam(net, optax.softmax_cross_entropy_with_integer_labels, 1e-3)
    """
    base = curvature.Adam(
        learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov, statistics=statistics
    )
    return gtddp(net, loss, base, **game)


@game_alias(curvature.Adam)
def adamw(
    net: StagedNetwork,
    loss: Loss | None,
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
    statistics: str = "closed",
    **game: Unpack[GameOptions],
) -> optax.GradientTransformationExtraArgs:
    """GT-DDP-AdamW: `gtddp` with `curvature.Adam` and decoupled weight decay.

    Example:
        >>> import flax.linen as nn, gtddp_jax as gt, optax
        >>> net = gt.Network([nn.Dense(2)])
        >>> tx = gt.adamw(net, optax.softmax_cross_entropy_with_integer_labels, 1e-3)
    """
    base = curvature.Adam(
        learning_rate,
        b1,
        b2,
        eps,
        eps_root,
        mu_dtype,
        nesterov,
        weight_decay,
        mask,
        statistics=statistics,
    )
    return gtddp(net, loss, base, **game)


@game_alias(curvature.KFAC)
def kfac(
    net: StagedNetwork,
    loss: Loss | None,
    learning_rate: Rate,
    damping: Rate = 1e-2,
    momentum: Number | None = None,
    **options: Unpack[KFACGameOptions],
) -> optax.GradientTransformationExtraArgs:
    """GT-DDP-KFAC: `gtddp` with `curvature.KFAC`, which takes the further `options`.

    Example:
        >>> import flax.linen as nn, gtddp_jax as gt, optax
        >>> net = gt.Network([nn.Dense(2)])
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> tx = gt.kfac(net, loss, 1e-2, damping=1e-2, refresh_every=50)
    """
    game, curvature_options = _split_options(options)
    base = curvature.KFAC(learning_rate, damping, momentum, **curvature_options)
    return gtddp(net, loss, base, **game)


@game_alias(curvature.EKFAC)
def ekfac(
    net: StagedNetwork,
    loss: Loss | None,
    learning_rate: Rate,
    damping: Rate = 1e-2,
    momentum: Number | None = None,
    **options: Unpack[EKFACGameOptions],
) -> optax.GradientTransformationExtraArgs:
    """GT-DDP-EKFAC: `gtddp` with `curvature.EKFAC`, which takes the further `options`.

    With `equilibrium="open_loop"` it is EKFAC, and with `cooperative="rescale"` (or another
    cooperation mode) beside it GT-EKFAC, the paper's game-theoretic second-order method without
    feedback (Sec. 6).

    Example:
        >>> import flax.linen as nn, gtddp_jax as gt, optax
        >>> net = gt.Network([gt.Cooperative([nn.Dense(2), nn.Dense(2)])])
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> options = {"cooperative": "rescale", "equilibrium": "open_loop"}
        >>> tx = gt.ekfac(net, loss, 1e-2, damping=1e-2, **options)
    """
    game, curvature_options = _split_options(options)
    base = curvature.EKFAC(learning_rate, damping, momentum, **curvature_options)
    return gtddp(net, loss, base, **game)


@game_alias(curvature.SOAP)
def soap(
    net: StagedNetwork,
    loss: Loss | None,
    learning_rate: Rate,
    b1: Number = 0.95,
    b2: Number = 0.95,
    eps: Number = 1e-8,
    weight_decay: Number = 0.01,
    precondition_frequency: int = 10,
    *,
    shampoo_beta: Number | None = None,
    max_precond_dim: int = 10000,
    statistics: str = "closed",
    **game: Unpack[GameOptions],
) -> optax.GradientTransformationExtraArgs:
    """GT-DDP-SOAP: `gtddp` with `curvature.SOAP`.

    With `equilibrium="open_loop"` it is SOAP as published. The first step moves nothing.

    Example:
        >>> import flax.linen as nn, gtddp_jax as gt, optax
        >>> net = gt.Network([nn.Dense(2)])
        >>> tx = gt.soap(net, optax.softmax_cross_entropy_with_integer_labels, 3e-3)
    """
    base = curvature.SOAP(
        learning_rate,
        b1,
        b2,
        eps,
        weight_decay,
        precondition_frequency,
        shampoo_beta,
        max_precond_dim,
        statistics=statistics,
    )
    return gtddp(net, loss, base, **game)


def scale_by_gt_ekfac(
    net: StagedNetwork,
    loss: Loss | None,
    damping: Rate = 1e-2,
    *,
    cooperative: str = "rescale",
    axis_name: AxisName = None,
    batch_stats: Tree | None = None,
    **options: Unpack[EKFACOptions],
) -> optax.GradientTransformationExtraArgs:
    """Scales the gradient by GT-EKFAC's preconditioner, without feedback (paper Sec. 6).

    Like optax's `scale_by_` transformations it has no learning rate and keeps the sign of the
    gradient; use it in an `optax.chain`.

    Args:
        net: the network.
        loss: `loss(outputs, targets) -> [B]`.
        damping: see `curvature.EKFAC`.
        cooperative: how the preconditioner couples players of the same stage, see
            `curvature.EKFAC`.
        axis_name: see `gtddp`.
        batch_stats: see `gtddp`.
        **options: further options of `curvature.EKFAC`.

    Example:
        >>> import flax.linen as nn, gtddp_jax as gt, optax
        >>> net = gt.Network([gt.Cooperative([nn.Dense(2), nn.Dense(2)])])
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> scale = gt.scale_by_gt_ekfac(net, loss, damping=1e-2)
        >>> tx = optax.chain(scale, optax.trace(0.9), optax.scale_by_learning_rate(1e-2))
    """
    # A learning rate of 1 leaves the length to the chain. The step points downhill already, but
    # `scale_by_` transformations keep the sign of the gradient.
    base = curvature.EKFAC(1.0, damping, cooperative=cooperative, **options)
    step = gtddp(
        net, loss, base, equilibrium="open_loop", axis_name=axis_name, batch_stats=batch_stats
    )
    scaled = optax.chain(step, optax.scale(-1.0))
    return game_transformation(
        "scale_by_gt_ekfac",
        scaled.init,
        scaled.update,
        net,
        damping=damping,
        cooperative=cooperative,
    )
