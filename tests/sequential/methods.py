"""The base methods as formulas on flat vectors.

A stage's parameters, gradients and preconditioner are vectors of length m. Neither the library's
curvatures nor optax are used, except to name the same method in `Method.curvature`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt

Vector = jax.Array
Memory = dict[str, Any]


class Facts(NamedTuple):
    """The arguments of a method besides the gradient, for one stage.

    Attributes:
        u: the parameters [m].
        owner: the player of each parameter [m].
    """

    u: Vector
    owner: np.ndarray


class Method(NamedTuple):
    """A base method by formula.

    Attributes:
        curvature: the same method in the library.
        start: m -> memory before the first step.
        gains: `(q, memory, facts) -> k [m], diagonal of P [m]`.
        after: `(q, memory) -> memory` after a step on the gradient q.
    """

    curvature: gt.curvature.Curvature
    start: Callable[[int], Memory]
    gains: Callable[[Vector, Memory, Facts], tuple[Vector, Vector]]
    after: Callable[[Vector, Memory], Memory]

    @property
    def is_open(self) -> bool:
        """Whether second moments and momentum are made from the open gradient."""
        return getattr(self.curvature, "statistics", "closed") == "open"


def _at(rate: Any, memory: Memory) -> Any:
    return rate(memory["count"]) if callable(rate) else rate


def sgd(
    curvature: Any,
    rate: Any,
    momentum: float = 0.0,
    nesterov: bool = False,
) -> Method:
    """Gradient descent with momentum."""

    def start(m: int) -> Memory:
        return {"trace": jnp.zeros(m), "count": 0}

    def gains(q: Vector, memory: Memory, facts: Facts) -> tuple[Vector, Vector]:
        trace = q + momentum * memory["trace"]
        direction = q + momentum * trace if nesterov else trace
        eta = _at(rate, memory)
        return -eta * direction, eta * jnp.ones_like(q)

    def after(q: Vector, memory: Memory) -> Memory:
        return {"trace": q + momentum * memory["trace"], "count": memory["count"] + 1}

    return Method(curvature, start, gains, after)


def rmsprop(
    learning_rate: Any,
    decay: float = 0.9,
    eps: float = 1e-8,
    initial_scale: float = 0.0,
    eps_in_sqrt: bool = True,
    momentum: Any = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> Method:
    """RMSprop as in optax: the momentum averages the scaled step."""
    curvature = gt.curvature.RMSProp(**locals())

    def start(m: int) -> Memory:
        return {"nu": jnp.full(m, initial_scale), "trace": jnp.zeros(m), "count": 0}

    def moments(q: Vector, memory: Memory) -> tuple[Vector, Vector, Vector]:
        nu = decay * memory["nu"] + (1 - decay) * q**2
        corrected = nu / (1 - decay ** (memory["count"] + 1)) if bias_correction else nu
        root = jnp.sqrt(corrected + eps) if eps_in_sqrt else jnp.sqrt(corrected) + eps
        p = _at(learning_rate, memory) / root
        return nu, p, -p * q + (momentum or 0.0) * memory["trace"]

    def gains(q: Vector, memory: Memory, facts: Facts) -> tuple[Vector, Vector]:
        _, p, trace = moments(q, memory)
        return (-p * q + momentum * trace if nesterov else trace), p

    def after(q: Vector, memory: Memory) -> Memory:
        nu, _, trace = moments(q, memory)
        return {"nu": nu, "trace": trace, "count": memory["count"] + 1}

    return Method(curvature, start, gains, after)


def adam(
    learning_rate: Any,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    nesterov: bool = False,
    weight_decay: float | None = None,
) -> Method:
    """Adam, NAdam and AdamW."""
    curvature = gt.curvature.Adam(**locals())

    def start(m: int) -> Memory:
        return {"mu": jnp.zeros(m), "nu": jnp.zeros(m), "count": 0}

    def moments(q: Vector, memory: Memory) -> tuple[Vector, Vector]:
        return b1 * memory["mu"] + (1 - b1) * q, b2 * memory["nu"] + (1 - b2) * q**2

    def gains(q: Vector, memory: Memory, facts: Facts) -> tuple[Vector, Vector]:
        mu, nu = moments(q, memory)
        n = memory["count"] + 1
        direction = mu / (1 - b1**n)
        if nesterov:
            direction = b1 * mu / (1 - b1 ** (n + 1)) + (1 - b1) * q / (1 - b1**n)
        eta = _at(learning_rate, memory)
        p = eta / (jnp.sqrt(nu / (1 - b2**n) + eps_root) + eps)
        return -p * direction - eta * (weight_decay or 0.0) * facts.u, p

    def after(q: Vector, memory: Memory) -> Memory:
        mu, nu = moments(q, memory)
        return {"mu": mu, "nu": nu, "count": memory["count"] + 1}

    return Method(curvature, start, gains, after)


def wrapped(method: Method, curvature: gt.curvature.Curvature) -> Method:
    """`FromOptax` of a method: P from the Rayleigh quotient."""

    def gains(q: Vector, memory: Memory, facts: Facts) -> tuple[Vector, Vector]:
        k, _ = method.gains(q, memory, facts)
        rest, _ = method.gains(jnp.zeros_like(q), memory, facts)
        quotients = []
        for player in np.unique(facts.owner):
            mine = (facts.owner == player).astype(float)
            quotients.append(mine * jnp.maximum((mine * q) @ (rest - k), 0) / ((mine * q) @ q))
        return k, sum(quotients[1:], quotients[0])

    return Method(curvature, method.start, gains, method.after)


def with_open_statistics(method: Method) -> Method:
    """The same method by the rule of the paper's Table 1."""
    curvature: Any = method.curvature
    return method._replace(curvature=dataclasses.replace(curvature, statistics="open"))


METHODS: dict[str, Method] = {
    "sgd": sgd(gt.curvature.SGD(0.1), 0.1),
    "sgd_momentum": sgd(gt.curvature.SGD(0.08, 0.9), 0.08, 0.9),
    "sgd_nesterov": sgd(gt.curvature.SGD(0.05, 0.9, True), 0.05, 0.9, True),
    "sgd_schedule": sgd(
        gt.curvature.SGD(lambda count: 0.1 / (1 + count)), lambda count: 0.1 / (1 + count)
    ),
    "rmsprop": rmsprop(0.02),
    "rmsprop_eps": rmsprop(0.05, decay=0.8, eps=0.03),
    "rmsprop_eps_outside": rmsprop(0.05, eps=0.1, eps_in_sqrt=False),
    "rmsprop_bias_correction": rmsprop(0.05, eps=0.01, bias_correction=True),
    "rmsprop_momentum": rmsprop(0.03, initial_scale=0.2, momentum=0.9),
    "rmsprop_nesterov": rmsprop(
        lambda count: 0.05 / (1 + count), initial_scale=0.1, momentum=0.9, nesterov=True
    ),
    "adam": adam(0.05),
    "adam_eps": adam(0.1, b1=0.8, b2=0.9, eps=0.05, eps_root=0.01),
    "adam_schedule": adam(lambda count: 0.1 / (1 + count)),
    "nadam": adam(0.05, nesterov=True),
    "adamw": adam(0.05, weight_decay=0.3),
    "from_optax_sgd": wrapped(sgd(None, 0.08, 0.9), gt.curvature.FromOptax(optax.sgd(0.08, 0.9))),
    "from_optax_adam": wrapped(
        adam(0.05, eps=0.05), gt.curvature.FromOptax(optax.adam(0.05, eps=0.05))
    ),
}
OPEN = (
    "sgd_nesterov",
    "rmsprop",
    "rmsprop_nesterov",
    "adam_eps",
    "adamw",
    "from_optax_sgd",
    "from_optax_adam",
)

METHODS |= {f"{name}_open": with_open_statistics(METHODS[name]) for name in OPEN}
"""Every curvature of the library with its options."""
