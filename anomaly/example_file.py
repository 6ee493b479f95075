"""Labelled regions as tensors: what lies in a model's `kinds.safetensors`."""

import json

import numpy as np
import torch

from anomaly.errors import ConfigError
from anomaly.kinds import Examples

_LIMIT = 100_000


def tensors_of_examples(examples: Examples) -> dict[str, torch.Tensor]:
    """Return tensors that hold examples: their vectors in float16, their names as UTF-8 JSON."""
    names = json.dumps({"kinds": examples.kinds, "parts": examples.parts}).encode()
    return {
        "vectors": torch.from_numpy(examples.vectors.astype(np.float16)),
        "names": torch.from_numpy(np.frombuffer(names, np.uint8).copy()),
    }


def examples_of_tensors(tensors: dict[str, torch.Tensor], width: int) -> Examples:
    """Restore examples of `width` channels.

    Raises `ConfigError`, `ShapeError`, `ValueError`, `KeyError` or `TypeError` where they are none.
    """
    vectors = tensors["vectors"]
    ok = vectors.ndim == 2 and vectors.shape[1] == width and 0 < len(vectors) <= _LIMIT
    if not ok or vectors.dtype != torch.float16:
        raise ConfigError(f"kinds.safetensors has no examples of regions with {width} channels")
    names = json.loads(tensors["names"].numpy().tobytes())
    kinds, parts = tuple(names["kinds"]), tuple(names["parts"])
    if not all(isinstance(name, str) and name for name in (*kinds, *parts)):
        raise ConfigError("kinds.safetensors has examples without a name")
    return Examples(vectors.float().numpy(), kinds, parts)
