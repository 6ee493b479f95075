"""Which images of a set are not independent, if only the file names tell."""

import re
from dataclasses import replace

from training.data import Dataset, Sample

_TILE = re.compile(r"^exp(\d)_num_(\d+)$")
_GAP = 150  # numbers of one tile's exposures lie closer than this


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
