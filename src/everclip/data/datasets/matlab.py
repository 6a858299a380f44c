"""Variables of MATLAB files (level 5), as far as lists of pictures have them: numbers, texts, cells and structures.

A library in C that reads such a file may end the process if the file is damaged, so this is plain Python.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
NUMBERS = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
MATRIX, COMPRESSED = 14, 15
CELL, STRUCTURE, TEXT = 1, 2, 4
HEADER = 128
LIMIT = 2**26  # bytes of one variable
DEPTH = 4  # of cells and structures in each other


def read(content: bytes, names: Collection[str]) -> dict[str, Any]:
    """Variables by name: numbers as arrays without axes of length 1, texts, and lists for cells and structures.

    Args:
        content: of the file.
        names: of the variables; those that are not there are left out.

    Raises:
        ValueError: it is no such file, or damaged.
    """
    if len(content) < HEADER or content[126:128] not in (b"IM", b"MI"):
        raise ValueError("no MATLAB file of level 5")
    order = "<" if content[126:128] == b"IM" else ">"
    found: dict[str, Any] = {}
    for kind, data in _elements(content[HEADER:], order):
        if kind == COMPRESSED:
            ((kind, data),) = _elements(_unpacked(data), order)
        if kind == MATRIX:
            name, value = _matrix(data, order, DEPTH)
            found |= {name: value} if name in names else {}
    return found


def _unpacked(data: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(data, LIMIT)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not stream.eof:
        raise ValueError(f"a variable is cut off, or takes more than {LIMIT >> 20} MB")
    return unpacked


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Kind and content of the elements that stand one after the other."""
    start = 0
    while start < len(data):
        if len(data) < start + 8:
            raise ValueError("it is cut off")
        kind, size = struct.unpack_from(f"{order}II", data, start)
        if kind >> 16:  # a small one, in the place of its size
            kind, size, first, last = kind & 0xFFFF, kind >> 16, start + 4, start + 8
        else:
            first = start + 8
            last = first + size + (-size % 8 if kind != COMPRESSED else 0)
        if first + size > len(data):
            raise ValueError("it is cut off")
        yield kind, data[first : first + size]
        start = last


def _matrix(data: bytes, order: str, depth: int) -> tuple[str, Any]:
    """Name and value of a variable, or of a part of one."""
    if not data:
        return "", np.empty(0)
    if not depth:
        raise ValueError("too many things inside each other")
    parts = _elements(data, order)
    try:
        flags, shape, name = next(parts)[1], next(parts)[1], next(parts)[1]
        kind = int(np.frombuffer(flags, f"{order}u4")[0]) & 0xFF
        sizes = np.frombuffer(shape, f"{order}i4").tolist()
        if min(sizes) < 0 or math.prod(sizes) > len(data):
            raise ValueError(f"{sizes} values do not fit in")
        return name.decode("latin-1"), _value(kind, sizes, parts, order, depth)
    except (StopIteration, IndexError, KeyError) as error:
        raise ValueError("a part of a variable is missing or of an unknown kind") from error


def _value(kind: int, sizes: list[int], parts: Iterator[tuple[int, bytes]], order: str, depth: int) -> Any:
    count = math.prod(sizes)
    if kind == CELL:
        return [_matrix(next(parts)[1], order, depth - 1)[1] for _ in range(count)]
    if kind == STRUCTURE:
        length, names = int(np.frombuffer(next(parts)[1], f"{order}i4")[0]), next(parts)[1]
        fields = [names[at : at + length].split(b"\0")[0].decode("latin-1") for at in range(0, len(names), length)]
        return [{field: _matrix(next(parts)[1], order, depth - 1)[1] for field in fields} for _ in range(count)]
    stored, data = next(parts)
    if kind == TEXT:
        ending = {"<": "-le", ">": "-be"}[order] if TEXTS[stored].startswith("utf-") and stored != 16 else ""
        return data.decode(TEXTS[stored] + ending)
    values = np.frombuffer(data, order + STORED[stored]).astype(NUMBERS[kind])
    return values.reshape(sizes, order="F").squeeze()[()]
