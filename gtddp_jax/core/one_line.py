"""Values as short text, for the one line that `print` shows of transformations and states.

What is printed may be an array, a tracer under `jit`, a `jax.ShapeDtypeStruct` or whatever a user's
`jax.tree.map` left in its place. None of them is an error here.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

LINE_LIMIT = 160
"""Longest line; a longer one is cut."""


def call_line(name: str, *arguments: object, **options: object) -> str:
    """A call as text, `name(argument, option=value)`, in one line of limited length.

    Args:
        name: what is called.
        *arguments: shown without their names.
        **options: shown with their names.
    """
    parts = [short_text(argument) for argument in arguments]
    parts += [f"{option}={short_text(value)}" for option, value in options.items()]
    line = f"{name}({', '.join(parts)})"
    return line if len(line) <= LINE_LIMIT else f"{line[: LINE_LIMIT - 4]}...)"


def short_text(value: object) -> str:
    """A few words for any value: a number, a shape, the name of a function, a short call."""
    value = unwrap_array(value)
    numbers = concrete_numbers(value)
    if numbers is not None and numbers.ndim == 0:
        return str(numbers) if numbers.dtype == bool else f"{numbers.item():.4g}"
    if isinstance(value, Tracer):
        return f"traced {_shape_text(value)}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return _shape_text(value)
    if value is None or isinstance(value, str):
        return repr(value)
    if isinstance(value, optax.GradientTransformation):
        return _transformation_text(value)
    if isinstance(value, optax.MultiSteps):
        return f"MultiSteps({short_text(value.inner_opt)})"
    if isinstance(value, tuple) and type(value) is tuple:
        return f"({', '.join(map(short_text, value))})"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return call_line(type(value).__name__, **_changed_fields(value))
    if callable(value):
        return _maker(value)
    # The representation of an unknown object may be long, or have an address in it.
    text = repr(value)
    return text if len(text) <= LINE_LIMIT // 2 and " at 0x" not in text else type(value).__name__


def unwrap_array(value: Any) -> Any:
    """The array in a variable that stands for one, as in an `nnx.Optimizer`; others as they are."""
    # Tracers have the attribute as well, without a function in it.
    convert = None if isinstance(value, type) else getattr(value, "__jax_array__", None)
    return value if convert is None else convert()


def concrete_numbers(value: object) -> np.ndarray | None:
    """The numbers of a value as a NumPy array; None if it has none, or none that can be read."""
    value = unwrap_array(value)
    if isinstance(value, Tracer):
        return None
    if isinstance(value, jax.Array):
        # Donated arrays are deleted; of arrays on several hosts each host has a part.
        if value.is_deleted() or not (value.is_fully_addressable or value.is_fully_replicated):
            return None
    elif not isinstance(value, (bool, int, float, np.ndarray, np.generic)):
        return None
    dtype = jnp.result_type(value)
    if not jnp.issubdtype(dtype, jnp.number) and not jnp.issubdtype(dtype, jnp.bool_):
        return None
    return np.asarray(value)


def _shape_text(value: Any) -> str:
    return f"{value.dtype}[{','.join(map(str, value.shape))}]"


def _changed_fields(value: Any) -> Mapping[str, object]:
    """The fields of a dataclass that differ from their defaults."""
    changed: dict[str, object] = {}
    for field in dataclasses.fields(value):
        given = getattr(value, field.name)
        # Arrays have no truth value, and are never a default.
        if hasattr(given, "dtype") or given != field.default:
            changed[field.name] = given
    return changed


def _transformation_text(transformation: Any) -> str:
    """A transformation of optax by the names of the functions that made it and its members."""
    # A game describes itself.
    if type(transformation).__repr__ is not optax.GradientTransformation.__repr__:
        return repr(transformation)
    return _update_text(transformation.update)


def _update_text(update: Any) -> str:
    # optax keeps no names, so those of the functions and of what they close over have to do.
    inside = inspect.getclosurevars(update).nonlocals if inspect.isfunction(update) else {}
    members = [_update_text(member) for member in inside.get("update_fns", ())]
    members += [
        _transformation_text(member)
        for member in inside.values()
        if isinstance(member, optax.GradientTransformation)
    ]
    if callable(inside.get("inner_factory")):  # of optax.inject_hyperparams
        members.append(_maker(inside["inner_factory"]))
    name = _maker(update)
    if name == "with_extra_args_support" and members:
        return members[0]
    return f"{name}({', '.join(members)})" if members else name


def _maker(function: Any) -> str:
    """The name of a function; of an inner function, the name of the function that made it."""
    name = getattr(function, "__qualname__", type(function).__name__)
    parts = [part for part in name.split(".") if part != "<locals>"]
    # A lambda in a function of the user tells nothing but that.
    return "lambda" if parts[-1] == "<lambda>" else parts[0]
