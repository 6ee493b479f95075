"""Which images of a set are not independent, if only the file names or their bytes tell."""

import re
from dataclasses import replace

from training.data import Dataset, Sample
from training.groups import with_copies_together_within
from training.identity import with_digests
from training.near import with_pictures
from training.progress import QUIET

_TILE = re.compile(r"^exp(\d)_num_(\d+)$")
_FIRST = ("test", "validation", "train")
_GAP = 150  # numbers of one tile's exposures lie closer than this


def independent(dataset: Dataset) -> Dataset:
    """Give a set its groups, and each picture to one split: to the test if it is there.

    Every good test image of brain_mri is a copy of images that the set has for training, encoded
    anew, and a model rejects what it was trained on too rarely. Of exact copies one stays.
    """
    samples = with_pictures(with_digests(with_tiles(dataset).samples), QUIET)
    splits: dict[str, str] = {}
    once: dict[str, Sample] = {}
    for sample in sorted(samples, key=lambda sample: _FIRST.index(sample.split)):
        splits.setdefault(sample.shows or str(sample.path), sample.split)
        once.setdefault(sample.digest or str(sample.path), sample)
    kept = [s for s in once.values() if splits[s.shows or str(s.path)] == s.split]
    order = {sample.path: i for i, sample in enumerate(samples)}
    kept.sort(key=lambda sample: order[sample.path])
    return replace(dataset, samples=tuple(with_copies_together_within(kept)))


def with_tiles(dataset: Dataset) -> Dataset:
    """Give the exposures of one magnetic tile one session; other sets stay as they are.

    Up to six exposures of a tile were taken in turn: `exp1_num_3504`, `exp2_num_3524`, ….
    In the order of the numbers, a tile ends where the exposure does not rise any more or the number
    jumps.
    """
    numbered = sorted(
        (int(match_[2]), int(match_[1]), i)
        for i, sample in enumerate(dataset.samples)
        if (match_ := _TILE.match(sample.path.stem))
    )
    if len(numbered) < len(dataset.samples):
        return dataset
    samples: list[Sample] = list(dataset.samples)
    tile, before = 0, (-_GAP, 0)
    for number, exposure, index in numbered:
        if number - before[0] > _GAP or exposure <= before[1]:
            tile += 1
        before = (number, exposure)
        samples[index] = replace(samples[index], session=f"tile{tile}")
    return replace(dataset, samples=tuple(samples))
