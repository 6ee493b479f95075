"""Open Inference Protocol v2 (REST), with its binary tensor extension: a body to images.

One input called `image`: BYTES (encoded images; base64 in JSON) or UINT8 pixels, RGB, (N, H, W, 3)
or (H, W, 3). Everything is counted before it is taken apart, and no single step holds up the
interpreter, and with it every other request, for long: base64 is lifted out of the JSON and decoded
piece by piece, what is left of the JSON is small.
"""

import base64
import binascii
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from anomaly.image import MIN_SIDE_PX
from anomaly.types import RgbImage
from record.result import JsonObject
from service.errors import TensorInvalid
from service.inference.inspection import Source

HEADER_LENGTH = "Inference-Header-Content-Length"
OUTPUTS = {
    "pred_score": "FP32",
    "p_value": "FP32",
    "threshold": "FP32",
    "is_anomalous": "BOOL",
    "anomaly_map": "FP32",
}
_MOST_JSON_BYTES = (
    2_000_000  # without its base64: some 50 ms of the interpreter, and a million numbers
)
_MOST_TEXTS = 20_000
_LONG_TEXT_BYTES = 4096  # texts longer than that are lifted out
_LIFTED = "\x00"  # begins what stands in the place of a lifted text
_PIECE_BYTES = 2**18  # of base64, a multiple of four
_ESCAPES = ((b"\\/", b"/"), (b"\\u002B", b"+"), (b"\\u002b", b"+"), (b"\\u002F", b"/"))
_BINARY = "send them by the binary tensor extension (binary_data_size), which has no such limit"


class TensorIn(BaseModel):
    """An input tensor; without `data` its bytes follow the JSON."""

    name: str
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=8)]
    datatype: Literal["BYTES", "UINT8"]
    data: list[Any] | None = None
    parameters: JsonObject = {}


class OutputWanted(BaseModel):
    """An output that is asked for."""

    name: Literal["pred_score", "p_value", "threshold", "is_anomalous", "anomaly_map"]
    parameters: JsonObject = {}


class InferIn(BaseModel):
    """An inference request; `timeout` among its parameters is a deadline in microseconds."""

    id: str | None = None
    inputs: Annotated[list[TensorIn], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[OutputWanted], Field(max_length=len(OUTPUTS))] | None = None
    parameters: JsonObject = {}


@dataclass(frozen=True, slots=True)
class Limits:
    """How many images a request may have, and how many pixels each."""

    images: int
    pixels: int


def read_request(
    body: bytes, header_length: str | None, limits: Limits
) -> tuple[InferIn, list[Source]]:
    """Split a body into its JSON and its images. Raises `TensorInvalid`."""
    end = _header_end(body, header_length)
    raw = memoryview(body)[end:]  # a copy of a hundred megabytes would hold up the interpreter
    json, lifted = _lift(body[:end])
    if len(json) > _MOST_JSON_BYTES:
        raise TensorInvalid(
            f"the JSON has more than {_MOST_JSON_BYTES} bytes beside images in base64; pixels as "
            f"numbers are too much that way: {_BINARY}"
        )
    infer_in = _validated(json)
    [tensor] = infer_in.inputs
    if tensor.name != "image":
        raise TensorInvalid(f"there is no input {tensor.name[:100]!r}; the only one is 'image'")
    if tensor.datatype == "BYTES":
        images: list[Source] = list(_encoded(tensor, raw, lifted, limits))
    elif lifted:
        raise TensorInvalid("UINT8 pixels are numbers, not texts")
    else:
        images = list(_pixels(tensor, raw, limits))
    return infer_in, images


def _header_end(body: bytes, header_length: str | None) -> int:
    """Where the JSON ends and the binary tensors begin."""
    if header_length is None:
        return len(body)
    if not (header_length.isascii() and header_length.isdecimal() and len(header_length) < 20):
        raise TensorInvalid(f"{HEADER_LENGTH} is no length in bytes")
    if int(header_length) > len(body):
        raise TensorInvalid(f"{HEADER_LENGTH} says more than the body's {len(body)} bytes")
    return int(header_length)


def _validated(json: bytes) -> InferIn:
    try:
        infer_in = InferIn.model_validate_json(json)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TensorInvalid(f"the request's JSON: {where}: {first['msg']}") from error
    names = [output.name for output in infer_in.outputs or ()]
    if len(set(names)) < len(names):
        raise TensorInvalid("an output is asked for more than once")
    return infer_in


def _lift(json: bytes) -> tuple[bytes, list[bytes]]:
    """Take long texts out of JSON: what is left, with marks in their places, and the texts."""
    if len(json) <= _LONG_TEXT_BYTES:
        return json, []
    remaining: list[bytes] = []
    lifted: list[bytes] = []
    done = 0
    for start, end in _texts(json):
        if end - start > _LONG_TEXT_BYTES:
            mark = f"\\u0000{len(lifted)}".encode()
            remaining += [json[done:start], mark]
            lifted.append(json[start:end])
            done = end
    remaining.append(json[done:])
    return b"".join(remaining), lifted


def _texts(json: bytes) -> Iterator[tuple[int, int]]:
    """Where JSON's texts begin and end, without quotes; raises `TensorInvalid` at too many."""
    at = 0
    for _ in range(_MOST_TEXTS):
        start = json.find(b'"', at) + 1
        if start == 0:
            return
        end = _closing_quote(json, start)
        if end < 0:
            return  # no JSON, as its parser will say
        yield start, end
        at = end + 1
    raise TensorInvalid(f"the JSON has more than {_MOST_TEXTS} texts")


def _closing_quote(json: bytes, start: int) -> int:
    at = start
    for _ in range(_MOST_TEXTS):
        end = json.find(b'"', at)
        before = json[max(start, end - 64) : end] if end > 0 else b""
        if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:
            return end
        at = end + 1
    raise TensorInvalid(f"a text has more than {_MOST_TEXTS} quotes")


def _encoded(
    tensor: TensorIn, raw: memoryview, lifted: list[bytes], limits: Limits
) -> Iterator[bytes]:
    count = _count(tensor.shape, limits)
    if tensor.data is None:
        if lifted:
            raise TensorInvalid("a text is longer than any that is read here")
        yield from _split(raw, count)
        return
    if len(tensor.data) != count:
        raise TensorInvalid(f"{len(tensor.data)} elements do not fill the shape {tensor.shape}")
    marks = [
        element
        for element in tensor.data
        if isinstance(element, str) and element.startswith(_LIFTED)
    ]
    if marks != [f"{_LIFTED}{number}" for number in range(len(lifted))]:
        raise TensorInvalid("a text outside of 'data' is longer than any that is read here")
    texts = iter(lifted)
    for element in tensor.data:
        yield _from_base64(
            next(texts) if isinstance(element, str) and element[:1] == _LIFTED else element
        )


def _count(shape: list[int], limits: Limits) -> int:
    """Images of a shape, none of which has been looked at yet."""
    count = math.prod(shape)
    if not 1 <= count <= limits.images:
        shown_count = count if count < 1e15 else "far too many"
        raise TensorInvalid(f"{shown_count} images; a request has 1 to {limits.images}")
    return count


def _split(raw: memoryview, count: int) -> Iterator[bytes]:
    """Cut so many BYTES elements, each behind its length in four little-endian bytes."""
    at = 0
    for _ in range(count):
        length = int.from_bytes(raw[at : at + 4], "little")
        if len(raw) < at + 4 + length:
            raise TensorInvalid(f"the bytes do not fill the {count} BYTES elements of the shape")
        yield bytes(raw[at + 4 : at + 4 + length])
        at += 4 + length
    if at < len(raw):
        raise TensorInvalid(f"{len(raw) - at} bytes follow the {count} elements of the shape")


def _from_base64(text: Any) -> bytes:
    """Decode, piece by piece: in one, no other thread of the interpreter would run meanwhile."""
    try:
        data = text.encode("ascii") if isinstance(text, str) else _unescaped(text)
        if len(data) % 4:
            raise ValueError("not a multiple of four")
        pieces = (data[i : i + _PIECE_BYTES] for i in range(0, len(data), _PIECE_BYTES))
        decoded = [base64.b64decode(piece, validate=True) for piece in pieces]
    except (binascii.Error, ValueError, TypeError) as error:
        raise TensorInvalid("BYTES in JSON are base64 of an encoded image each") from error
    group = _PIECE_BYTES // 4 * 3
    if any(len(piece) < group for piece in decoded[:-1]):  # padding before the end
        raise TensorInvalid("BYTES in JSON are base64 of an encoded image each")
    return b"".join(decoded)


def _unescaped(text: Any) -> bytes:
    """Undo what JSON writers escape in base64; anything else is none."""
    if not isinstance(text, bytes):
        raise TypeError("no text")
    data: bytes = text
    if b"\\" in data:
        for escaped, plain in _ESCAPES:
            data = data.replace(escaped, plain)
    return data


def _pixels(tensor: TensorIn, raw: memoryview, limits: Limits) -> Iterator[RgbImage]:
    shape = tensor.shape if len(tensor.shape) == 4 else [1, *tensor.shape]
    if len(shape) != 4 or shape[3] != 3 or min(shape[1:3]) < MIN_SIDE_PX:
        raise TensorInvalid(
            f"UINT8 pixels have the shape (N, H, W, 3) with sides of {MIN_SIDE_PX} px or more, not "
            f"{tensor.shape}"
        )
    _count(shape[:1], limits)
    if shape[1] * shape[2] > limits.pixels:
        raise TensorInvalid(f"an image has more than the limit of {limits.pixels} pixels")
    pixels = np.frombuffer(raw, np.uint8) if tensor.data is None else _numbers(tensor.data)
    if pixels.size != math.prod(shape):
        raise TensorInvalid(f"{pixels.size} pixel values do not fill the shape {tensor.shape}")
    return (RgbImage(image) for image in pixels.reshape(shape))


def _numbers(data: list[Any]) -> np.ndarray:
    """Pixel values that came as JSON numbers, flat or nested."""
    try:
        values = np.array(data)
    except (ValueError, TypeError, OverflowError) as error:
        raise TensorInvalid(f"the data are no even list of numbers: {error}") from error
    if values.size and (values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255):
        raise TensorInvalid("UINT8 pixels are whole numbers from 0 to 255")
    return values.astype(np.uint8)


def deadline_ms(infer_in: InferIn) -> float | None:
    """Return the request's `timeout`, which comes in microseconds."""
    timeout_us = infer_in.parameters.get("timeout")
    if type(timeout_us) is not int or timeout_us <= 0:
        return None
    return min(timeout_us, 600_000_000) / 1000
