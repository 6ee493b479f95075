"""Which good parts' images nearly equal each other: frames of a burst, or a picture encoded anew.

Exact copies are told by their bytes (`training.identity`). Here a small grey picture of each image
is compared with the others. How far apart other parts lie differs from product to product, so an
image's nearest is measured by how far its neighbours lie, not by a fixed distance.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from scipy.sparse.csgraph import connected_components

from anomaly.errors import ImageError
from anomaly.image import decode_image
from anomaly.preprocess import PreprocessConfig, place
from anomaly.types import FloatArray
from training.progress import SHOWN, Progress
from training.samples import Sample

_log = logging.getLogger(__name__)
_SMALL = PreprocessConfig(canvas=32)
_THREADS = 2
_FEWEST, _MOST = 12, 3000  # images among which near copies are looked for
# Nearer than this share of the distance to the neighbour at a fifth of all images. Most frames of a
# burst lie below .1 of it, drawn parts beyond .34; a share of .2 would group more on ultrasound and
# magnetic_tile (docs/LOG.md).
_NEAR = 0.15
_NEIGHBOUR, _NEAREST_NEIGHBOUR = 5, 10


def with_pictures(samples: Sequence[Sample], progress: Progress = SHOWN) -> list[Sample]:
    """Give near copies one `picture`, where there are neither too few nor too many images.

    `picture` is the digest of the first of them, an image's own where it is like no other. What was
    looked at already, or cannot be read, stays as it is.
    """
    samples = list(samples)
    wanted = [i for i, s in enumerate(samples) if s.is_normal and s.digest and not s.picture]
    if len(wanted) > _MOST:
        _log.info("%d images: too many to look for near copies among them", len(wanted))
    if not _FEWEST <= len(wanted) <= _MOST:
        return samples
    with ThreadPoolExecutor(_THREADS) as pool:
        small = list(
            progress.each(
                pool.map(_small, (samples[i] for i in wanted)),
                "near copies",
                total=len(wanted),
                unit="image",
            )
        )
    pairs = [(i, one) for i, one in zip(wanted, small, strict=True) if one is not None]
    if len(pairs) >= _FEWEST:
        first: dict[int, str] = {}
        clusters = near_copies(np.stack([one for _, one in pairs]))
        for (i, _), cluster in zip(pairs, clusters.tolist(), strict=True):
            samples[i] = replace(samples[i], picture=first.setdefault(cluster, samples[i].digest))
    return samples


def near_copies(small: FloatArray) -> np.ndarray:
    """Return which cluster each of N small pictures (N, D) belongs to, (N,) int."""
    squares = (small**2).sum(axis=1)
    distance = squares[:, None] + squares[None] - 2 * small @ small.T
    distance = np.sqrt(np.maximum(distance, 0.0))
    np.fill_diagonal(distance, np.inf)
    neighbour = min(len(small) - 2, max(_NEAREST_NEIGHBOUR, len(small) // _NEIGHBOUR))
    usual = np.partition(distance, neighbour, axis=1)[:, neighbour]
    near = distance < _NEAR * np.minimum(usual[:, None], usual[None])
    clusters: np.ndarray = connected_components(near, directed=False)[1]
    return clusters


def _small(sample: Sample) -> FloatArray | None:
    """Return the small grey picture, (1024,); None for what cannot be read."""
    try:
        image = decode_image(sample.path.read_bytes(), canvas=_SMALL.canvas)
    except (ImageError, OSError):
        return None
    grey: FloatArray = place(image, _SMALL)[0].mean(axis=2).ravel()
    return grey
