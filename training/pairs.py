"""Images whose mask lies beside them, as the Kolektor sets have it: `10.png` and `10_GT.png`.

An image is defective where its mask is not black.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from training.errors import DataError
from training.files import Folder
from training.samples import NORMAL, Sample, few_of, printable
from training.truth import read_pixels

_ENDINGS = ("_gt", "_label", "_mask")
_DEFECT = "defect"

MakeSample = Callable[[Path, str, str, tuple[str, ...]], Sample]


def paired(names: Sequence[str]) -> dict[str, str]:
    """Return the mask's name for each image that has one among these names."""
    stems = {Path(name).stem.casefold(): name for name in names}
    pairs = {}
    for stem, mask in stems.items():
        for ending in _ENDINGS:
            image = stems.get(stem.removesuffix(ending))
            if stem.endswith(ending) and image is not None:
                pairs[image] = mask
    return pairs


def read_pairs(
    folder: Folder, split: str, drawn_into: tuple[str, ...], make: MakeSample
) -> list[Sample]:
    """Return the images of a folder of pairs. Raises `DataError` where some images have no mask."""
    pairs = paired(folder.images)
    alone = sorted(set(folder.images) - pairs.keys() - set(pairs.values()))
    if alone:
        raise DataError(
            f"{printable(folder.path)} has masks beside its images, but none for "
            f"{few_of([*map(printable, alone)])}, so that nothing says whether they are good; add "
            "a black mask for good parts, or move them away"
        )
    samples = []
    for image, mask in sorted(pairs.items()):
        path = folder.path / mask
        label = _DEFECT if read_pixels(path).any() else NORMAL
        sample = make(folder.path / image, label, split, drawn_into)
        samples.append(sample if label == NORMAL else replace(sample, mask=path))
    return samples
