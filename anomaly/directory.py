"""The tags of a TIFF file, and of EXIF, which is stored as one: bytes to `Directory`.

Strict and bounded: whatever points out of the file is `CorruptImage`, and no file keeps it busy. It
knows what a tag's numbers are, not what they mean. Other readers are lenient where this one must
not be, and parse private tags of microscopes that are not needed here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomaly.errors import CorruptImage, UnsupportedFormat

_MAX_TAGS = 1024
_MAX_DIRECTORIES = 100
_SUB_DIRECTORIES = 330
_ASCII, _RATIONAL = 2, 5
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8}
_SIZES |= {11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "u1", 3: "u2", 4: "u4", 6: "i1", 7: "u1", 8: "i2", 9: "i4", 13: "u4"}
_INTEGERS |= {16: "u8", 17: "i8", 18: "u8"}


@dataclass(frozen=True, slots=True)
class Directory:
    """One picture's tags: `order` is `<` or `>`, `fields` has (type, count, position) by tag."""

    data: bytes
    order: str
    fields: dict[int, tuple[int, int, int]]

    def __contains__(self, tag: int) -> bool:
        return tag in self.fields

    def content(self, tag: int) -> bytes:
        """Return a tag's bytes as they are stored; none where the tag is absent."""
        if tag not in self.fields:
            return b""
        kind, count, position = self.fields[tag]
        end = position + count * _SIZES.get(kind, 1)
        if end > len(self.data):
            raise CorruptImage(f"tag {tag} of the image points beyond the end of the file")
        return self.data[position:end]

    def integers(self, tag: int) -> NDArray[np.int64]:
        """Return a tag's integers; none where the tag is absent. Raises `CorruptImage`."""
        if tag not in self.fields:
            return np.zeros(0, np.int64)
        kind = self.fields[tag][0]
        if kind not in _INTEGERS:
            raise CorruptImage(f"tag {tag} of the image is not of whole numbers (type {kind})")
        values = np.frombuffer(self.content(tag), self.order + _INTEGERS[kind])
        return values.astype(np.int64)

    def integer(self, tag: int, default: int) -> int:
        """Return a tag's first integer."""
        values = self.integers(tag)
        return int(values[0]) if len(values) else default

    def plain_integer(self, tag: int, default: int) -> int:
        """Return a tag's first integer whatever its type, or the default where it is none."""
        kind = self.fields[tag][0] if tag in self.fields else None
        content = self.content(tag)
        if kind == _ASCII:
            text = content.rstrip(b"\0 ")
            return int(text) if text.isdigit() and len(text) < 6 else default
        if kind == _RATIONAL and len(content) >= 8:
            above, below = np.frombuffer(content[:8], self.order + "u4").tolist()
            return above // below if below and above % below == 0 else default
        return self.integer(tag, default) if kind in _INTEGERS else default


def is_tiff(data: bytes) -> bool:
    """Whether the bytes begin as a TIFF or BigTIFF file does."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_directories(data: bytes) -> Iterator[Directory]:
    """Yield the directories of a TIFF file in their order.

    Raises `CorruptImage` for one beyond the file's end or a chain without one, and
    `UnsupportedFormat` for far too many.
    """
    order, big = _order(data)
    position, seen = _first(data, order, big=big), set[int]()
    while position:
        if position in seen:
            raise CorruptImage("the TIFF is damaged: its directories form a circle")
        _note(position, seen)
        directory, position = _read(data, position, order, big=big)
        yield directory


def read_below(parents: Sequence[Directory]) -> Iterator[tuple[Directory, Directory]]:
    """Yield each directory that the SubIFDs of others name, after its parent; raises the same."""
    seen: set[int] = set()
    for parent in parents:
        order, big = _order(parent.data)
        waiting = parent.integers(_SUB_DIRECTORIES)[: _MAX_DIRECTORIES + 1].tolist()
        while waiting:
            position = waiting.pop()
            if position in seen:  # some writers chain them as well
                continue
            _note(position, seen)
            directory, following = _read(parent.data, position, order, big=big)
            waiting += [following] if following else []
            yield parent, directory


def _note(position: int, seen: set[int]) -> None:
    if len(seen) >= _MAX_DIRECTORIES:
        raise UnsupportedFormat(
            f"the TIFF has more than {_MAX_DIRECTORIES} pages; send one image for each"
        )
    seen.add(position)


def _order(data: bytes) -> tuple[str, bool]:
    """Byte order, `<` or `>`, and whether it is a BigTIFF."""
    return "<" if data[:2] == b"II" else ">", data[2:4] in (b"+\0", b"\0+")


def _first(data: bytes, order: str, *, big: bool) -> int:
    if big:
        if _number(data, 4, order + "u2") != 8:
            raise CorruptImage("the BigTIFF's header is damaged")
        return _number(data, 8, order + "u8")
    return _number(data, 4, order + "u4")


def _read(data: bytes, position: int, order: str, *, big: bool) -> tuple[Directory, int]:
    """Return the directory at a position, and where the following one is, or 0."""
    width = 8 if big else 4  # of an offset
    count = _number(data, position, f"{order}u{8 if big else 2}")
    if not 0 < count <= _MAX_TAGS:
        raise CorruptImage(f"the image's directory has {count} tags")
    start, inline = position + (8 if big else 2), 4 + width
    layout = np.dtype({"names": ["tag", "kind", "count"],
                       "formats": [order + "u2", order + "u2", f"{order}u{width}"],
                       "offsets": [0, 2, 4], "itemsize": inline + width})  # fmt: skip
    end = start + count * layout.itemsize
    if end > len(data):
        raise CorruptImage("the image's directory ends beyond the file; it is truncated or damaged")
    fields: dict[int, tuple[int, int, int]] = {}
    for i, (tag, kind, length) in enumerate(np.frombuffer(data[start:end], layout).tolist()):
        value = start + i * layout.itemsize + inline
        if length * _SIZES.get(kind, 1) > width:
            value = _number(data, value, f"{order}u{width}")
        fields.setdefault(tag, (kind, length, value))
    # Writers of EXIF often leave out the last pointer.
    following = _number(data, end, f"{order}u{width}") if end + width <= len(data) else 0
    return Directory(data, order, fields), following


def _number(data: bytes, position: int, kind: str) -> int:
    content = data[position : position + np.dtype(kind).itemsize]
    if len(content) < np.dtype(kind).itemsize:
        raise CorruptImage("the image's directory lies beyond the file; it is truncated or damaged")
    return int(np.frombuffer(content, kind)[0])
