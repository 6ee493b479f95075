"""Run-length codes as tools write them: COCO's text, and Label Studio's stream of bits.

Both are without loss. COCO's: https://github.com/cocodataset/cocoapi, `common/maskApi.c`
(`rleToString`). Label Studio's: https://labelstud.io/tags/brushlabels and `brush.py` of its SDK.
"""

from collections.abc import Sequence

import numpy as np

from supervised.masks import run_lengths
from training.annotations.reading import brief
from training.annotations.shapes import Mask
from training.errors import DataError

_OFFSET = 48  # COCO's characters begin at "0"
_MOST_DIGITS = 13  # of five bits: more than any image has pixels
_LENGTHS_BITS = (3, 4, 8, 16)  # of a run in Label Studio's stream
_OPAQUE = 128  # alpha from which a brush has marked a pixel


def coco_text(counts: np.ndarray) -> str:
    """Encode run lengths as COCO's compressed text."""
    letters = []
    for i, count in enumerate(counts.tolist()):
        value = count - (int(counts[i - 2]) if i > 2 else 0)
        more = True
        while more:
            digit = value & 0x1F
            value >>= 5
            more = value != -1 if digit & 0x10 else value != 0
            letters.append(chr((digit | 0x20 if more else digit) + _OFFSET))
    return "".join(letters)


def coco_counts(text: str, where: str) -> list[int]:
    """Decode COCO's compressed text to run lengths; raises `DataError`."""
    counts: list[int] = []
    value, digits = 0, 0
    for letter in text:
        code = ord(letter) - _OFFSET
        if not 0 <= code < 64 or digits >= _MOST_DIGITS:
            raise DataError(f"{where} has the run lengths {brief(text)}, which are damaged")
        value |= (code & 0x1F) << 5 * digits
        digits += 1
        if not code & 0x20:
            value |= -1 << 5 * digits if code & 0x10 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value, digits = 0, 0
    if digits:
        raise DataError(f"{where} has run lengths that are cut short; export it again")
    return counts


class _Bits:
    def __init__(self, data: np.ndarray, where: str) -> None:
        self.bits = np.unpackbits(data)
        self.place = 0
        self.where = where

    def take(self, count: int) -> np.ndarray:
        end = self.place + count
        if end > len(self.bits):
            raise DataError(f"{self.where} has a brush mask that is cut short; export it again")
        self.place = end
        return self.bits[end - count : end]

    def integer(self, count: int) -> int:
        return int("".join(map(str, self.take(count).tolist())), 2)


def brush_pixels(code: Sequence[object], size: tuple[int, int], where: str) -> Mask:
    """Decode Label Studio's RGBA stream of an image of (H, W): True where it is rather opaque."""
    if not all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 256 for v in code):
        raise DataError(f"{where} has a brush mask that is not of bytes; export it again")
    bits = _Bits(np.array(code, np.uint8), where)
    total = bits.integer(32)
    if total != 4 * size[0] * size[1]:
        raise DataError(
            f"{where} has a brush mask of {total} values; its image of {size[1]}×{size[0]} px "
            f"wants {4 * size[0] * size[1]}"
        )
    word = bits.integer(5) + 1
    lengths = [bits.integer(4) + 1 for _ in range(4)]
    if word != 8:
        raise DataError(f"{where} has a brush mask of {word} bits a value; want 8: export it again")
    values, place = np.zeros(total, np.uint8), 0
    while place < total:
        is_run = bits.integer(1)
        end = place + 1 + bits.integer(lengths[bits.integer(2)])
        if end > total:
            raise DataError(f"{where} has a brush mask that is too long; export it again")
        words = 1 if is_run else end - place
        values[place:end] = np.packbits(bits.take(8 * words))
        place = end
    mask: Mask = values.reshape(*size, 4)[..., 3] >= _OPAQUE
    return mask


def brush_code(mask: Mask) -> list[int]:
    """Encode a mask as Label Studio's RGBA stream: opaque white on nothing."""
    parts = [f"{4 * mask.size:032b}", f"{7:05b}", *(f"{bits - 1:04b}" for bits in _LENGTHS_BITS)]
    for i, length in enumerate(run_lengths(mask.ravel()).tolist()):
        value = "11111111" if i % 2 else "00000000"
        remaining = 4 * length
        while remaining:
            part = min(remaining, 1 << _LENGTHS_BITS[-1])
            which = next(k for k, bits in enumerate(_LENGTHS_BITS) if part <= 1 << bits)
            parts.append(f"1{which:02b}{part - 1:0{_LENGTHS_BITS[which]}b}{value}")
            remaining -= part
    bits = np.frombuffer("".join(parts).encode(), np.uint8) - ord("0")
    code: list[int] = np.packbits(bits).tolist()
    return code
