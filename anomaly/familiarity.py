"""Whether an image is unlike the calibration images: another camera or setting, not a bad part.

The header is held against what the calibration images had: any other size, format or depth is
another. What the camera sends (`anomaly.input_statistics`) is held against their extremes, with a
margin: a new good part passes the extreme of N others with a chance of 1/N already. The margin is
half their span, and wider the fewer independent groups there are (a whole span at thirty), so that
less than one good part in a hundred is called unlike, whatever the spread. It knows nothing of
defects: the verdict is another matter.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from anomaly.calibration import Calibration, ReferenceStatistics
from anomaly.encoding import LOSSLESS, RAW, Encoding, Encodings
from anomaly.input_statistics import STATISTICS
from anomaly.tail import Tail
from anomaly.types import FloatArray

_QUALITY_MARGIN = 3  # cameras hold a file's size rather than its quality
_ASPECT_MARGIN = 0.01
_SPANS, _SPANS_OF_GROUPS = 0.5, 15.0
# Changes smaller than these no model minds, however alike the calibration images were.
_LEAST_CHANGE = {"brightness": 0.02, "contrast": 0.01, "sharpness": 0.1, "red": 0.05, "blue": 0.05}
_CODES = {"red": "colour", "blue": "colour"}
CODES = (
    "size",
    "aspect",
    "format",
    "compression",
    "bit_depth",
    "channels",
    "brightness",
    "contrast",
    "sharpness",
    "colour",
    "rate_uncertified",
)


@dataclass(frozen=True, slots=True)
class InputWarning:
    """One way in which an image or its request is unlike the calibration; `code` is stable."""

    code: str
    text: str


def unfamiliar(
    calibration: Calibration, encoding: Encoding, inputs: FloatArray
) -> tuple[InputWarning, ...]:
    """Say how an image is unlike the calibration's; nothing if the calibration does not know."""
    warnings: list[InputWarning] = []
    if calibration.encodings is not None:
        warnings += _by_header(calibration.encodings, encoding)
    if calibration.reference is not None:
        warnings += _by_content(calibration.reference, inputs)
    return tuple({warning.code: warning for warning in reversed(warnings)}.values())[::-1]


def uncertified(calibration: Calibration, rate: float | None) -> tuple[InputWarning, ...]:
    """Say that a false-alarm rate is smaller than the calibration can certify."""
    if rate is None or (mode := calibration.mode_at(rate)) == "certified":
        return ()
    images = calibration.images
    text = (
        f"a false-alarm rate of {rate:.3g} is not certified: {images.groups} groups "
        f"certify {images.smallest_rate:.3g} at the least, and the threshold is "
    )
    if mode == "largest":
        return (InputWarning("rate_uncertified", text + "their largest score"),)
    estimate = Tail.fit(images).estimate(rate)
    text += f"an estimate, for a rate between {estimate.low:.2g} and {estimate.high:.2g}"
    return (InputWarning("rate_uncertified", text),)


def _by_header(encodings: Encodings, now: Encoding) -> Iterator[InputWarning]:
    aspect = now.width / now.height
    if not (_within(now.height, encodings.heights) and _within(now.width, encodings.widths)):
        expected = f"{_range(*encodings.widths)} × {_range(*encodings.heights)}"
        yield _warning("size", f"{now.width} × {now.height} px", f"{expected} px")
    low, high = encodings.aspects
    if not low * (1 - _ASPECT_MARGIN) <= aspect <= high * (1 + _ASPECT_MARGIN):
        yield _warning("aspect", f"{aspect:.3f}", _range(round(low, 3), round(high, 3)))
    if now.format not in (RAW, *encodings.formats):
        yield _warning("format", now.format, " or ".join(encodings.formats))
    if _is_compressed_otherwise(encodings, now):
        low_quality, high_quality = encodings.qualities
        yield _warning(
            "compression",
            _quality(now.quality, now.subsampling),
            _qualities(low_quality, high_quality, encodings.subsamplings),
        )
    if now.bits not in encodings.bits:
        yield _warning("bit_depth", f"{now.bits} bits", _or(encodings.bits, "bits"))
    if now.format != RAW and now.channels not in encodings.channels:
        yield _warning(
            "channels", _colours(now.channels), " or ".join(map(_colours, encodings.channels))
        )


def _is_compressed_otherwise(encodings: Encodings, now: Encoding) -> bool:
    low, high = encodings.qualities
    if (now.quality == LOSSLESS) != (high == LOSSLESS) and not low < high == LOSSLESS:
        return True
    chroma = now.subsampling and now.channels in encodings.channels
    return not low - _QUALITY_MARGIN <= now.quality <= high + _QUALITY_MARGIN or bool(
        chroma and now.subsampling not in encodings.subsamplings
    )


def _by_content(reference: ReferenceStatistics, inputs: FloatArray) -> Iterator[InputWarning]:
    columns = [reference.names.index(name) for name in STATISTICS]
    low, high = reference.values[:, columns].min(axis=0), reference.values[:, columns].max(axis=0)
    spans = _SPANS + _SPANS_OF_GROUPS / max(float(reference.weights.sum(dtype=np.float64)), 1.0)
    for name, now, lowest, highest in zip(STATISTICS, inputs, low, high, strict=True):
        margin = spans * float(highest - lowest) + _LEAST_CHANGE[name]
        if not lowest - margin <= now <= highest + margin:
            code = name if name in _CODES else ""
            yield _warning(
                _CODES.get(name, name),
                f"{code} {now:.3g}".strip(),
                f"{lowest:.3g} to {highest:.3g}",
            )


def _warning(code: str, now: str, expected: str) -> InputWarning:
    return InputWarning(code, f"{code.replace('_', ' ')}: {now}; calibrated on {expected}")


def _within(value: int, ends: tuple[int, int]) -> bool:
    return ends[0] <= value <= ends[1]


def _range(low: object, high: object) -> str:
    return str(low) if low == high else f"{low} to {high}"


def _or(values: tuple[int, ...], unit: str) -> str:
    return f"{' or '.join(map(str, values))} {unit}"


def _colours(channels: int) -> str:
    return "grey" if channels == 1 else "colour"


def _qualities(low: int, high: int, subsamplings: tuple[int, ...]) -> str:
    if low == high:
        return _quality(low, *subsamplings)
    return f"{_quality(low, *subsamplings)} to {_quality(high)}"


def _quality(quality: int, *subsamplings: int) -> str:
    if quality == LOSSLESS:
        return "lossless"
    chroma = " or ".join(":".join(str(sampling)) for sampling in subsamplings if sampling > 1)
    return f"JPEG quality {quality}" + (f" ({chroma})" if chroma else "")
