"""The python pickles of CIFAR, read without the powers of a pickle.

A pickle is a program for a small machine that may call any function that it names. Here it may name
three things, and gets stand-ins for them that only keep what they are given: no function of NumPy
or of anybody else is called while the program runs.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from gtddp_jax.training.data.dataset import DataError

MAX_MEMO = 2**20
"""The highest memo slot that a pickle may use; a higher one makes the reader allocate for it."""


class _Type:
    """Stands for ``numpy.dtype(code, ...)``; only bytes are known."""

    def __init__(self, code: Any, *flags: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment, which bytes do not have."""


class _Array:
    """Stands for an array while its pickle is read."""

    value: np.ndarray

    def __setstate__(self, state: Any) -> None:
        """Takes (version, shape, dtype, Fortran order, bytes) as NumPy writes them."""
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Type) or dtype.code not in (b"u1", "u1"):
            raise pickle.UnpicklingError("an array of unsigned bytes is needed")
        if prod(shape) != len(raw):
            raise pickle.UnpicklingError(f"an array of shape {shape} with {len(raw)} bytes")
        self.value = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


class _Name:
    """Stands for a name: it can be called or handed on, and nothing can be set on it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any] | None = None) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        if self._call is None:
            raise pickle.UnpicklingError("a class is called that is only ever handed on")
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a name is changed")


RECONSTRUCT = _Name(lambda kind, shape, code: _Array())
"""Makes the empty array that is to be filled."""

ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy", "ndarray"): _Name(),
    ("numpy", "dtype"): _Name(_Type),
}
"""What a pickle may name, and what it gets."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return ALLOWED[module_name, global_name]
        except KeyError:
            raise DataError(
                f"refused, because it asks for {module_name}.{global_name}; the original holds "
                "arrays, lists and text only"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        raise DataError("refused, because it refers to objects outside of it")


def load(content: bytes, label: object) -> dict[bytes, Any]:
    """Reads a pickled dict of byte arrays, lists, numbers and text.

    Args:
        content: The pickle, as Python 2 wrote it (text becomes ``bytes``) or a later one.
        label: Where it is from, for the error text.

    Raises:
        DataError: If it is corrupt, cut off, or asks for anything else.
    """
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if "PUT" in opcode.name and isinstance(argument, int) and argument > MAX_MEMO:
                raise DataError(f"refused, because it asks for memory slot {argument}")
        found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{label}: {error}.") from error
    except Exception as error:  # a damaged program may fail in any way
        raise DataError(f"{label}: is cut off or corrupt ({error}).") from error
    if not isinstance(found, dict):
        raise DataError(f"{label}: holds a {type(found).__name__}, a dict is needed.")
    return {_bytes(key): _value(value) for key, value in found.items()}


def _bytes(key: Any) -> Any:
    return key.encode() if isinstance(key, str) else key


def _value(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value
