"""A restricted unpickler for the Python version of CIFAR.

A pickle is a program that may call any function that it names. Here it may name three NumPy objects
and gets stand-ins for them, which only store their arguments: no NumPy function, or any other, is
called while the program runs.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from gtddp_lab.data.dataset import DataError

MAX_MEMO = 2**20
"""Highest memo slot that a pickle may use; the unpickler allocates memory up to it."""


class _TypeStandIn:
    """Stand-in for ``numpy.dtype(code, ...)``; only unsigned bytes are supported."""

    def __init__(self, code: Any, *flags: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Ignore byte order and alignment, which bytes do not have."""


class _ArrayStandIn:
    """Stand-in for an array while its pickle is read."""

    value: np.ndarray

    def __setstate__(self, state: Any) -> None:
        """Take (version, shape, dtype, Fortran order, bytes), as written by NumPy."""
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _TypeStandIn) or dtype.code not in (b"u1", "u1"):
            raise pickle.UnpicklingError("arrays must be of unsigned bytes")
        if prod(shape) != len(raw):
            raise pickle.UnpicklingError(f"an array of shape {shape} has {len(raw)} bytes")
        self.value = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


class _NameStandIn:
    """Stand-in for a name, which can be called or passed as an argument but not modified."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any] | None = None) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        if self._call is None:
            raise pickle.UnpicklingError("it calls a class that NumPy only passes as an argument")
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it modifies a class or function")


EMPTY_ARRAY = _NameStandIn(lambda kind, shape, code: _ArrayStandIn())
"""Creates the empty array that the pickle fills."""

ALLOWED_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): EMPTY_ARRAY,
    ("numpy._core.multiarray", "_reconstruct"): EMPTY_ARRAY,
    ("numpy", "ndarray"): _NameStandIn(),
    ("numpy", "dtype"): _NameStandIn(_TypeStandIn),
}
"""Names that a pickle may use, with their stand-ins."""


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return ALLOWED_NAMES[module_name, global_name]
        except KeyError:
            raise DataError(
                f"refused because it asks for {module_name}.{global_name}; the original holds "
                "only arrays, lists and text"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        raise DataError("refused because it refers to external objects")


def load_restricted_pickle(content: bytes, label: object) -> dict[bytes, Any]:
    """Read a pickled dict of byte arrays, lists, numbers and text.

    Args:
        content: The pickle, written by Python 2 (text becomes ``bytes``) or later.
        label: Origin of the pickle, for the error message.

    Raises:
        DataError: If it is corrupt or truncated or asks for anything else.
    """
    try:
        # The unpickler allocates its memo up to the highest slot, so check the slots first.
        for opcode, argument, _ in pickletools.genops(content):
            if "PUT" in opcode.name and isinstance(argument, int) and argument > MAX_MEMO:
                raise DataError(f"refused because it asks for memory slot {argument}")
        content_dict = _RestrictedUnpickler(io.BytesIO(content), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{label}: {error}.") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{label}: is truncated or corrupt ({error}).") from error
    if not isinstance(content_dict, dict):
        raise DataError(f"{label}: must hold a dict, but holds a {type(content_dict).__name__}.")
    return {_to_bytes(key): _array_value(value) for key, value in content_dict.items()}


def _to_bytes(key: Any) -> Any:
    return key.encode() if isinstance(key, str) else key


def _array_value(value: Any) -> Any:
    return value.value if isinstance(value, _ArrayStandIn) else value
