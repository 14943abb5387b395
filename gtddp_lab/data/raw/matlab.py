"""Numeric arrays in a MATLAB file of format 5, with every size checked before memory is taken.

Half a megabyte can unpack to half a gigabyte, and the sizes in a file are mere claims. Here a size
is compared with what the class and the shape of an array need, and with a limit, before anything is
unpacked. Arrays are views of the unpacked bytes, not copies.
"""

import struct
import zlib
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np

Buffer: TypeAlias = bytes | bytearray | memoryview

MATRIX, COMPRESSED = 14, 15
"""Types of elements that hold an array, plain or compressed."""

HEADER_BYTES = 128
"""Bytes before the first element: text, version and byte order."""

LARGEST_HEAD = 4096
"""Bytes in which class, shape and name of an array must lie."""

CLASS_NAMES = {
    6: "float64",
    7: "float32",
    8: "int8",
    9: "uint8",
    10: "int16",
    11: "uint16",
    12: "int32",
    13: "uint32",
    14: "int64",
    15: "uint64",
}
"""NumPy's names of the classes of numeric arrays."""

STORED_TYPES = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
"""NumPy's codes of the types in which numbers are stored."""

COMPLEX_FLAG = 0x0800

MOST_VARIABLES = 100
"""Largest number of arrays in a file."""

LARGEST_RATIO = 1032
"""zlib makes nothing smaller than by this factor."""

PIECE_BYTES = 2**20
"""Bytes that are unpacked at a time."""


class MatlabError(ValueError):
    """A file is not such a MATLAB file; the message is a part of a sentence."""


@dataclass(frozen=True)
class MatlabVariable:
    """An array in a file: what its head says. Nothing is unpacked yet.

    Attributes:
        name: Its name.
        shape: Its shape.
        class_name: NumPy's name of its class; "other" unless it is real and numeric.
    """

    name: str
    shape: tuple[int, ...]
    class_name: str
    _content: memoryview  # of its element: tag, head and numbers, possibly compressed
    _is_compressed: bool
    _order: str
    _start: int  # of its numbers, behind the head
    _end: int

    def read(self, limit: int) -> np.ndarray:
        """Returns the numbers, in the type in which they are stored.

        Args:
            limit: Largest number of bytes to unpack.

        Raises:
            MatlabError: If they are more, or not those of the shape.
        """
        if self._end > limit:
            raise MatlabError(f"{self.name} unpacks to {self._end} bytes, more than {limit}")
        content: Buffer = self._content
        if self._is_compressed:
            content = _inflate(self._content, self._end)
        kind, data_start, count = _read_tag(content, self._start, self._order)
        if kind not in STORED_TYPES:
            raise MatlabError(f"{self.name} is stored in the unknown type {kind}")
        dtype = np.dtype(self._order + STORED_TYPES[kind])
        if count != prod(self.shape) * dtype.itemsize or data_start + count > self._end:
            raise MatlabError(
                f"{self.name} {list(self.shape)} has {count} bytes, which are not its numbers"
            )
        numbers = np.frombuffer(content, dtype, prod(self.shape), data_start)
        return numbers.reshape(self.shape, order="F")


def list_variables(content: bytes) -> dict[str, MatlabVariable]:
    """The arrays in a file, by name; reads only their heads.

    Raises:
        MatlabError: If the file has another format, or is truncated or corrupt.
    """
    if content[:HEADER_BYTES].startswith(b"MATLAB 7.3"):
        raise NotImplementedError("format 7.3")
    order = {b"IM": "<", b"MI": ">"}.get(content[126:HEADER_BYTES])
    if order is None:
        raise MatlabError("it has no header of a MATLAB file of format 5")
    variables: dict[str, MatlabVariable] = {}
    position = HEADER_BYTES
    while position < len(content):
        kind, start, count = _read_tag(content, position, order)
        if start + count > len(content):
            raise MatlabError("it ends within an array")
        if kind not in (MATRIX, COMPRESSED):
            raise MatlabError(f"it holds an element of type {kind} beside its arrays")
        is_compressed = kind == COMPRESSED
        first = start if is_compressed else position
        element = memoryview(content)[first : start + count]
        variable = _read_head(element, is_compressed, order)
        variables[variable.name] = variable
        if len(variables) > MOST_VARIABLES:
            raise MatlabError(f"it holds more than {MOST_VARIABLES} arrays")
        position = start + count
    return variables


def _read_head(element: memoryview, is_compressed: bool, order: str) -> MatlabVariable:
    """Class, shape and name of an array, from the first bytes of its element."""
    head: Buffer = element
    if is_compressed:
        head = zlib.decompressobj().decompress(element, LARGEST_HEAD)
    kind, position, count = _read_tag(head, 0, order)
    if kind != MATRIX:
        raise MatlabError(f"it holds an element of type {kind} where an array belongs")
    end = position + count
    flags, position = _read_part(head, position, order)
    shape, position = _read_part(head, position, order)
    name, position = _read_part(head, position, order)
    if len(flags) != 8 or len(shape) % 4:
        raise MatlabError("the head of an array is damaged")
    (word,) = struct.unpack_from(f"{order}I", flags)
    dimensions = struct.unpack(f"{order}{len(shape) // 4}i", shape)
    if min(dimensions, default=-1) < 0:
        raise MatlabError("an array has a negative length")
    is_numeric = not word & COMPLEX_FLAG and word & 0xFF in CLASS_NAMES
    class_name = CLASS_NAMES[word & 0xFF] if is_numeric else "other"
    text = name.decode("ascii", "replace")
    return MatlabVariable(
        text, dimensions, class_name, element, is_compressed, order, position, end
    )


def _read_part(head: Buffer, position: int, order: str) -> tuple[bytes, int]:
    """The content of one part of an array's head, and the position of the next part."""
    _, start, count = _read_tag(head, position, order)
    if start + count > min(len(head), LARGEST_HEAD):
        raise MatlabError("the head of an array is too long")
    # Parts begin at multiples of 8 bytes; a short one shares 8 bytes with its tag.
    return bytes(head[start : start + count]), -(-(start + count) // 8) * 8


def _read_tag(content: Buffer, position: int, order: str) -> tuple[int, int, int]:
    """Type of an element, position of its data, and number of its bytes."""
    if position + 8 > len(content):
        raise MatlabError("it ends within a tag")
    kind, count = struct.unpack_from(f"{order}II", content, position)
    if kind >> 16:  # the short form: the number of bytes, the type, and up to four bytes of data
        return kind & 0xFFFF, position + 4, kind >> 16
    return kind, position + 8, count


def _inflate(packed: memoryview, size: int) -> bytearray:
    """Unpacks exactly ``size`` bytes, and compares their checksum."""
    if size > LARGEST_RATIO * len(packed):
        raise MatlabError(f"an array announces {size} bytes in {len(packed)} compressed ones")
    # Pieces go straight to their place; zlib alone would hold everything twice.
    content, stream = bytearray(size), zlib.decompressobj()
    rest, position = bytes(packed), 0
    while not stream.eof:
        piece = stream.decompress(rest, PIECE_BYTES)
        if position + len(piece) > size or not (piece or stream.eof):
            break  # more than announced, or cut off
        content[position : position + len(piece)] = piece
        position += len(piece)
        rest = stream.unconsumed_tail
    if position != size or not stream.eof:
        raise MatlabError(f"an array does not unpack to the {size} bytes that its head announces")
    return content
