"""Copies of images as a camera that compresses more would send them.

A part and its copy are one part: the copy stays in its session. Knows 8-bit pictures; a 16-bit one
never came as a JPEG, and its copy is the picture itself.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from anomaly.bundle import Bundle
from anomaly.heatmap import encode_jpeg
from anomaly.image import decode_image
from training.samples import Sample


def with_compressed(
    samples: Sequence[Sample], qualities: Sequence[int], seed: int = 0
) -> list[Sample]:
    """Add a copy of each image, its JPEG quality uniform in (low, high); none without qualities."""
    if not qualities:
        return list(samples)
    low, high = qualities
    drawn = np.random.default_rng((seed, 5)).integers(low, high, len(samples), endpoint=True)
    copies = [replace(s, quality=int(q)) for s, q in zip(samples, drawn, strict=True)]
    return [*samples, *copies]


def compression_of(bundle: Bundle) -> tuple[int, ...]:
    """Return the qualities of the copies that a model was trained on; empty if there were none."""
    recipe = bundle.card.get("training", {}).get("recipe", {})
    return tuple(recipe.get("augment", {}).get("compression", ()))


def file_bytes(sample: Sample) -> bytes:
    """Read an image's file, recompressed where the sample says so; raises as reading does."""
    data = sample.path.read_bytes()
    if sample.quality is None:
        return data
    image = decode_image(data)
    return encode_jpeg(image.pixels, sample.quality) if image.pixels.dtype == np.uint8 else data
