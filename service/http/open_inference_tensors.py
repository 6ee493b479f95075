"""Inspections to an Open Inference Protocol v2 answer: JSON, with binary tensors behind it."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from record.result import JsonObject
from service.http.open_inference import HEADER_LENGTH, OUTPUTS, InferIn, OutputWanted
from service.inference.inspection import Inspection

_NUMPY = {"FP32": "<f4", "BOOL": "?"}
_AT_ONCE = 4096  # numbers; longer lists would hold up every other thread of the interpreter


def write_response(
    name: str, infer_in: InferIn, inspections: Sequence[Inspection]
) -> tuple[bytes, dict[str, str]]:
    """Return the body and its headers: JSON, followed by the tensors that are wanted in binary."""
    everything = infer_in.parameters.get("binary_data_output") is True
    requested = infer_in.outputs or [OutputWanted(name=output_name) for output_name in OUTPUTS]
    outputs, binary = [], []
    for output in requested:
        tensor = _tensor(output.name, inspections)
        described: JsonObject = {
            "name": output.name,
            "datatype": OUTPUTS[output.name],
            "shape": list(tensor.shape),
        }
        if output.parameters.get("binary_data", everything) is True:
            binary.append(tensor.tobytes())
            described["parameters"] = {"binary_data_size": len(binary[-1])}
            outputs.append(json.dumps(described))
        else:
            outputs.append(_with_data(described, tensor))
    answer: JsonObject = {
        "model_name": name,
        "model_version": inspections[0].model.bundle.version,
    }
    if infer_in.id is not None:
        answer["id"] = infer_in.id
    head = _appended(answer, "outputs", f"[{', '.join(outputs)}]").encode()
    if not binary:
        return head, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return b"".join([head, *binary]), headers


def _with_data(described: JsonObject, tensor: np.ndarray) -> str:
    return _appended(described, "data", f"[{', '.join(_numbers(tensor.ravel()))}]")


def _appended(values: JsonObject, key: str, text: str) -> str:
    """JSON of an object, with one more value that is JSON already."""
    return f"{json.dumps(values)[:-1]}, {json.dumps(key)}: {text}}}"


def _numbers(values: np.ndarray) -> Iterator[str]:
    for start in range(0, len(values), _AT_ONCE):
        yield json.dumps(values[start : start + _AT_ONCE].tolist())[1:-1]


def _tensor(name: str, inspections: Sequence[Inspection]) -> np.ndarray:
    detections = [item.detection for item in inspections]
    values: list[Any]
    match name:
        case "anomaly_map":
            values = [item.patch_scores for item in detections]
        case _:
            values = [getattr(item, name) for item in detections]
    return np.ascontiguousarray(np.stack(values), dtype=_NUMPY[OUTPUTS[name]])
