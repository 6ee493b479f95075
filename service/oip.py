"""Open Inference Protocol v2 (REST), with its binary tensor extension: tensors to images and back.

One input called `image`: BYTES (encoded images; base64 in JSON) or UINT8 pixels, RGB, (N, H, W, 3) or
(H, W, 3).
"""

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from anomaly.image import MIN_SIDE_PX
from anomaly.types import RgbImage
from service.errors import TensorInvalid
from service.found import Inspection, Source

HEADER_LENGTH = "Inference-Header-Content-Length"
OUTPUTS = {
    "pred_score": "FP32",
    "p_value": "FP32",
    "threshold": "FP32",
    "is_anomalous": "BOOL",
    "anomaly_map": "FP32",
}
_NUMPY = {"FP32": "<f4", "BOOL": "?"}


class TensorIn(BaseModel):
    """An input tensor; without `data` its bytes follow the JSON."""

    name: str
    shape: list[Annotated[int, Field(ge=0)]]
    datatype: Literal["BYTES", "UINT8"]
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


class OutputWanted(BaseModel):
    """An output that is asked for."""

    name: Literal["pred_score", "p_value", "threshold", "is_anomalous", "anomaly_map"]
    parameters: dict[str, Any] = {}


class InferIn(BaseModel):
    """An inference request; `timeout` among its parameters is a deadline in microseconds."""

    id: str | None = None
    inputs: Annotated[list[TensorIn], Field(min_length=1, max_length=1)]
    outputs: list[OutputWanted] | None = None
    parameters: dict[str, Any] = {}


def read_request(
    body: bytes, header_length: str | None, *, max_images: int, max_pixels: int
) -> tuple[InferIn, list[Source]]:
    """Split a body into its JSON and its images. Raises `TensorInvalid`."""
    if header_length is not None and not header_length.isdecimal():
        raise TensorInvalid(f"{HEADER_LENGTH} is no number")
    end = len(body) if header_length is None else int(header_length)
    try:
        wanted = InferIn.model_validate_json(body[:end])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TensorInvalid(f"the request's JSON: {where}: {first['msg']}") from error
    [tensor] = wanted.inputs
    if tensor.name != "image":
        raise TensorInvalid(f"there is no input {tensor.name!r}; the only one is 'image'")
    if tensor.datatype == "BYTES":
        images: list[Source] = list(_encoded(tensor, body[end:]))
    else:
        images = list(_pixels(tensor, body[end:], max_pixels))
    if not 1 <= len(images) <= max_images:
        raise TensorInvalid(f"{len(images)} images; a request has 1 to {max_images}")
    return wanted, images


def _encoded(tensor: TensorIn, raw: bytes) -> list[bytes]:
    images = _split(raw) if tensor.data is None else [_from_base64(one) for one in tensor.data]
    if len(images) != int(np.prod(tensor.shape, dtype=np.int64)):
        raise TensorInvalid(f"{len(images)} elements do not fill the shape {tensor.shape}")
    return images


def _split(raw: bytes) -> list[bytes]:
    """Cut BYTES elements, each behind its length in four little-endian bytes."""
    elements, at = [], 0
    while at < len(raw):
        length = int.from_bytes(raw[at : at + 4], "little")
        element = raw[at + 4 : at + 4 + length]
        if len(raw) < at + 4 + length:
            raise TensorInvalid("a BYTES element is shorter than it says")
        elements.append(element)
        at += 4 + length
    return elements


def _from_base64(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise TensorInvalid("BYTES in JSON are base64 of an encoded image each") from error


def _pixels(tensor: TensorIn, raw: bytes, max_pixels: int) -> list[RgbImage]:
    shape = tensor.shape if len(tensor.shape) == 4 else [1, *tensor.shape]
    if len(shape) != 4 or shape[3] != 3 or min(shape[1:3]) < MIN_SIDE_PX:
        raise TensorInvalid(
            f"UINT8 pixels have the shape (N, H, W, 3) with sides of {MIN_SIDE_PX} px or more, not "
            f"{tensor.shape}"
        )
    if shape[1] * shape[2] > max_pixels:
        raise TensorInvalid(f"an image has more than the limit of {max_pixels} pixels")
    try:
        if tensor.data is None:
            pixels = np.frombuffer(raw, np.uint8).reshape(shape)
        else:
            pixels = np.array(tensor.data, dtype=np.uint8).reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise TensorInvalid(f"the data do not fill the shape {tensor.shape}: {error}") from error
    return [RgbImage(one) for one in pixels]


def write_response(
    name: str, wanted: InferIn, found: Sequence[Inspection]
) -> tuple[bytes, dict[str, str]]:
    """Return the body and its headers: JSON, followed by the tensors that are wanted in binary."""
    everything = wanted.parameters.get("binary_data_output") is True
    asked = wanted.outputs or [OutputWanted(name=one) for one in OUTPUTS]
    outputs, binary = [], []
    for output in asked:
        tensor = _tensor(output.name, found)
        described: dict[str, Any] = {
            "name": output.name,
            "datatype": OUTPUTS[output.name],
            "shape": list(tensor.shape),
        }
        if output.parameters.get("binary_data", everything) is True:
            binary.append(tensor.tobytes())
            described["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            described["data"] = tensor.flatten().tolist()
        outputs.append(described)
    answer: dict[str, Any] = {
        "model_name": name,
        "model_version": found[0].model.bundle.version,
        "outputs": outputs,
    }
    if wanted.id is not None:
        answer["id"] = wanted.id
    head = json.dumps(answer).encode()
    if not binary:
        return head, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return b"".join([head, *binary]), headers


def deadline_ms(wanted: InferIn) -> float | None:
    """Return the request's `timeout`, which comes in microseconds."""
    timeout_us = wanted.parameters.get("timeout")
    if type(timeout_us) is not int or timeout_us <= 0:
        return None
    return min(timeout_us / 1000, 600_000)


def _tensor(name: str, found: Sequence[Inspection]) -> np.ndarray:
    detections = [one.detection for one in found]
    values: list[Any]
    match name:
        case "anomaly_map":
            values = [one.patch_scores for one in detections]
        case _:
            values = [getattr(one, name) for one in detections]
    return np.ascontiguousarray(np.stack(values), dtype=_NUMPY[OUTPUTS[name]])
