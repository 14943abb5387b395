"""Random base methods (the library's, a formula and optax's) and how they scale with the loss.

A loss multiplied by s is the same problem in other units. For a base method to take the same step,
its options must be multiplied by these powers of s (docs/mathematics.md, "What must not matter"):

| base      | P                            | rate | others                                        |
|-----------|------------------------------|------|-----------------------------------------------|
| sgd       | rate                         | -1   |                                               |
| rmsprop   | rate / sqrt(nu + eps)        | 0    | eps 2 (outside the root 1), initial_scale 2   |
| adam      | rate / (sqrt(nu) + eps)      | 0    | eps 1, eps_root 2                             |
| lion      | rate sign(.)                 | 0    |                                               |
| kfac      | rate (A (x) B + gamma)^-1    | 1    | gamma 2 (B is quadratic in the gradients)     |
| ekfac     | rate U (s + gamma)^-1 U^T    | 1    | gamma 2                                       |
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optax

import gtddp_jax as gt
from tests.curvature.kronecker import formulas
from tests.sequential import methods

Rng = np.random.Generator
Hyper = dict[str, Any]


class Base(NamedTuple):
    """A base method with numeric options as arguments.

    Attributes:
        label: the name in messages.
        hyper: its numeric options.
        powers: the power of the loss scale by which each option is multiplied.
        curvature: the library's curvature.
        method: the formula on flat vectors, or None.
        plain: the optax optimizer of that name, or None.
        formula: the Kronecker formula, or None.
        cooperative: how the players of a stage cooperate under Kronecker curvature.
    """

    label: str
    hyper: Hyper
    powers: dict[str, int]
    curvature: Callable[[Hyper], gt.curvature.Curvature]
    method: Callable[[Hyper], methods.Method] | None = None
    plain: Callable[[Hyper], optax.GradientTransformation] | None = None
    formula: Callable[[Hyper], formulas.Formula] | None = None
    cooperative: str = "none"

    @property
    def rate(self) -> str:
        """The name of the learning rate among the options."""
        return "learning_rate" if "learning_rate" in self.hyper else "rate"

    def scaled(self, hyper: Hyper, s: float) -> Hyper:
        """The options for a loss that is multiplied by s."""
        return {name: value * s ** self.powers[name] for name, value in hyper.items()}

    def cooperating(self, mode: str) -> "Base":
        """The base with cooperating players; it has a Kronecker formula."""
        formula = self.formula
        assert formula is not None
        return self._replace(
            label=f"{self.label}, cooperative={mode}",
            curvature=lambda h: formulas.curvature(formula(h), cooperative=mode),
            cooperative=mode,
        )


def _number(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _flag(rng: Rng) -> bool:
    return bool(rng.random() < 0.5)


def _from_method(label: str, hyper: Hyper, powers: dict[str, int], method: Any, own: Any) -> Base:
    return Base(label, hyper, powers, lambda h: method(h).curvature, method, own)


def _sgd(rng: Rng) -> Base:
    momentum = float(rng.choice([0.0, 0.5, 0.9]))
    nesterov = bool(momentum) and _flag(rng)
    options = (momentum or None, nesterov)

    def method(h: Hyper) -> methods.Method:
        curvature = gt.curvature.SGD(h["rate"], *options)
        return methods.sgd(curvature, h["rate"], momentum, nesterov)

    label = f"sgd(momentum={momentum}, nesterov={nesterov})"
    own = lambda h: optax.sgd(h["rate"], *options)  # noqa: E731
    return _from_method(label, {"rate": 0.1}, {"rate": -1}, method, own)


def _rmsprop(rng: Rng) -> Base:
    momentum = [None, 0.5, 0.9][rng.integers(3)]
    options = {
        "decay": float(rng.choice([0.5, 0.9, 0.99])),
        "eps_in_sqrt": _flag(rng),
        "momentum": momentum,
        "nesterov": momentum is not None and _flag(rng),
        "bias_correction": _flag(rng),
    }
    eps = _number(rng, 1e-4, 1e-1)
    hyper = {"learning_rate": 0.1, "eps": eps, "initial_scale": float(rng.choice([0.0, 0.3]))}
    powers = {"learning_rate": 0, "eps": 2 if options["eps_in_sqrt"] else 1, "initial_scale": 2}
    return _from_method(
        f"rmsprop({options}, {hyper})",
        hyper,
        powers,
        lambda h: methods.rmsprop(**options, **h),
        lambda h: optax.rmsprop(**options, **h),
    )


def _adam(rng: Rng) -> Base:
    options: dict[str, Any] = {
        "b1": float(rng.choice([0.0, 0.8, 0.9])),
        "b2": float(rng.choice([0.9, 0.99, 0.999])),
        "nesterov": _flag(rng),
    }
    hyper = {"learning_rate": 0.1, "eps": _number(rng, 1e-4, 1e-1)}
    hyper["eps_root"] = float(rng.choice([0.0, 1e-3]))
    powers = {"learning_rate": 0, "eps": 1, "eps_root": 2}
    own = optax.adam
    if _flag(rng):
        options["weight_decay"], own = _number(rng, 0.01, 0.5), optax.adamw
    return _from_method(
        f"adam({options}, {hyper})",
        hyper,
        powers,
        lambda h: methods.adam(**options, **h),
        lambda h: own(**options, **h),
    )


def _wrapped(rng: Rng) -> Base:
    inner = (_sgd, _adam)[rng.integers(2)](rng)
    assert inner.method is not None and inner.plain is not None
    make, own = inner.method, inner.plain

    def method(h: Hyper) -> methods.Method:
        return methods.wrapped(make(h), gt.curvature.FromOptax(own(h)))

    label = f"from_optax({inner.label})"
    return _from_method(label, inner.hyper, inner.powers, method, own)


def _lion(rng: Rng) -> Base:
    del rng
    own = lambda h: optax.lion(h["rate"])  # noqa: E731
    curvature = lambda h: gt.curvature.FromOptax(own(h))  # noqa: E731
    return Base("from_optax(lion)", {"rate": 0.01}, {"rate": 0}, curvature, plain=own)


def _kronecker(rng: Rng) -> Base:
    kind = str(rng.choice(["exact", "factored", "running", "per_example"]))
    positions = str(rng.choice(["expand", "reduce"]))
    momentum = float(rng.choice([0.0, 0.9]))

    def formula(h: Hyper) -> formulas.Formula:
        return formulas.Formula(
            kind, h["rate"], h["gamma"], momentum=momentum, positions=positions, factor_decay=0.6
        )

    hyper = {"rate": 0.1, "gamma": _number(rng, 0.03, 1.0)}
    return Base(
        f"kronecker({kind}, {positions}, momentum={momentum}, {hyper})",
        hyper,
        {"rate": 1, "gamma": 2},
        lambda h: formulas.curvature(formula(h), cooperative="none"),
        formula=formula,
    )


BASES: dict[str, tuple[float, Callable[[Rng], Base]]] = {
    "sgd": (0.22, _sgd),
    "rmsprop": (0.2, _rmsprop),
    "adam": (0.25, _adam),
    "from_optax": (0.1, _wrapped),
    "lion": (0.05, _lion),
    "kronecker": (0.18, _kronecker),
}
"""How often each base is drawn, and by which function."""


def draw(rng: Rng) -> Base:
    """Draws a base method."""
    chances = [chance for chance, _ in BASES.values()]
    name = str(rng.choice(list(BASES), p=chances))
    return BASES[name][1](rng)
