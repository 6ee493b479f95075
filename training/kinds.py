"""Kinds of defects learned from folders: the regions that the model finds on labelled parts.

Only what the detector itself finds teaches, as later it names only what it finds. Where a part has
a mask, regions beside it teach nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomaly.bundle import Bundle, load_bundle, new_version, save_bundle
from anomaly.errors import ImageError
from anomaly.kinds import UNKNOWN, Examples, high_enough
from anomaly.runtime import detector_of
from anomaly.types import Detection, FloatArray, Region
from training.errors import DataError
from training.kind_folders import kind_of_folder
from training.outputs import check_changed_model
from training.progress import QUIET, SHOWN, Progress
from training.samples import Sample
from training.truth import read_mask

_BATCH = 8


@dataclass(frozen=True, slots=True)
class LearnedKinds:
    """What labelled parts taught: `examples` of regions, None where there are none.

    `parts` counts the labelled parts by kind, `passed` those of them on which nothing was found.
    """

    examples: Examples | None
    parts: Counter[str]
    passed: Counter[str]


@dataclass(frozen=True, slots=True)
class _Part:
    """A labelled part: its name, its kind, the file's bytes, and where it has a mask the sample."""

    name: str
    kind: str
    data: bytes
    sample: Sample | None = None


def learn_kinds(
    folder: Path, samples: Sequence[Sample], *, progress: Progress = SHOWN
) -> tuple[Bundle, LearnedKinds]:
    """Teach a model on disk the kinds of labelled samples; it is saved as a new version.

    What it was taught from folders before is replaced; thresholds and scores stay. Raises
    `DataError` where no defect is labelled or none is found, and what loading and saving raise.
    """
    check_changed_model(folder)
    labelled = [sample for sample in samples if not sample.is_normal]
    if not labelled:
        raise DataError(
            "there is no labelled defect; put them into test/<kind> folders, or name a manifest "
            "with labels"
        )
    if any(kind_of_folder(sample.label) == UNKNOWN for sample in labelled):
        raise DataError(f"a kind cannot be called {UNKNOWN!r}: that is what fits no kind")
    bundle = load_bundle(folder)
    with progress.bar("regions", total=len(labelled), unit="image") as bar:
        learned = _learned(bundle, map(_part, labelled), bar.update)
    if learned.examples is None:
        raise DataError(
            f"the model rejects none of the {len(labelled)} labelled parts, so that there is no "
            "region to learn from; see whether they are of this product"
        )
    taught = replace(bundle, examples=learned.examples)
    return save_bundle(taught, folder, new_version()), learned


def examples_of_images(
    bundle: Bundle, images: Iterable[tuple[str, str, bytes]], *, progress: Progress = QUIET
) -> LearnedKinds:
    """Learn from images, each as its part's name, its kind and its file's bytes."""
    parts = [_Part(*image) for image in images]
    with progress.bar("regions", total=len(parts), unit="image") as bar:
        return _learned(bundle, iter(parts), bar.update)


def _part(sample: Sample) -> _Part:
    masked = sample if sample.mask is not None else None
    return _Part(
        sample.session or sample.name,
        kind_of_folder(sample.label),
        sample.path.read_bytes(),
        masked,
    )


def _learned(bundle: Bundle, parts: Iterator[_Part], done: Callable[[int], object]) -> LearnedKinds:
    detector = detector_of(bundle)
    vectors: list[FloatArray] = []
    kinds: list[str] = []
    names: list[str] = []
    counted: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    for batch in iter(lambda: list(islice(parts, _BATCH)), []):
        try:
            detections = detector.detect([part.data for part in batch])
        except ImageError as error:
            raise type(error)(f"{', '.join(part.name for part in batch)}: {error}") from error
        for part, detection in zip(batch, detections, strict=True):
            described = detector.describe(detection)
            rows = [] if described is None else _meant(part, detection)
            counted[part.kind] += 1
            passed[part.kind] += not rows
            for row in rows:
                assert described is not None
                vectors.append(described[row])
                kinds.append(part.kind)
                names.append(part.name)
        done(len(batch))
    if not vectors:
        return LearnedKinds(None, counted, passed)
    return LearnedKinds(Examples(np.stack(vectors), tuple(kinds), tuple(names)), counted, passed)


def _meant(part: _Part, detection: Detection) -> list[int]:
    """Rows of the regions that a part's label is of."""
    regions = detection.regions
    if part.sample is not None and regions:
        mask = read_mask(part.sample, detection.placement.source)
        return [row for row, region in enumerate(regions) if _touches(mask, region)]
    return high_enough([region.peak_score for region in regions])


def _touches(mask: NDArray[np.bool_], region: Region) -> bool:
    x, y, width, height = region.bbox
    return bool(mask[y : y + height, x : x + width].any())
