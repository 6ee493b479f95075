"""What a set of labels holds, in numbers, and what is odd about it."""

from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import combinations

from training.annotations.labelled import LabelSet
from training.annotations.shapes import Outlines
from training.samples import few_of

_ALIKE = 0.8  # of two spellings, by difflib's ratio
_MOST_COMPARED = 200  # kinds
_LONGEST_TEXT = 60  # characters of a kind


def table(labels: LabelSet) -> str:
    """Lay out what a set holds of each kind."""
    good = sum(image.is_good for image in labels.images)
    splits = Counter(image.split or "no split" for image in labels.images)
    lines = [
        f"{len(labels.images)} images: {good} good, {len(labels.images) - good} defective; "
        + ", ".join(f"{count} {split}" for split, count in splits.items()),
        f"  {'kind':<24}{'images':>8}{'instances':>11}{'masks':>8}{'polygons':>10}{'boxes':>8}",
    ]
    for key, kind in labels.kinds().items():
        images = sum(key in {k.casefold() for k in image.all_kinds()} for image in labels.images)
        shapes = [i.shape for _, i in labels.instances() if i.kind.casefold() == key]
        polygons = sum(isinstance(shape, Outlines) for shape in shapes)
        boxes = sum(shape is None for shape in shapes)
        masks = len(shapes) - polygons - boxes
        lines.append(
            f"  {_short(kind):<24}{images:>8}{len(shapes):>11}{masks:>8}{polygons:>10}{boxes:>8}"
        )
    return "\n".join(lines)


def odd(labels: LabelSet) -> Iterator[str]:
    """Yield what was noted while a set was read, and what is likely to be a mistake in it."""
    yield from labels.notes
    several = [image.name for image in labels.images if len(image.all_kinds()) > 1]
    if several:
        yield f"{len(several)} images show several kinds ({few_of(several)})"
    alone = [image.name for image in labels.images if image.kinds and not image.instances]
    if alone:
        yield f"{len(alone)} defective images have no region ({few_of(alone)})"
    thin = [image.name for image, i in labels.instances() if not i.pixels(image.size).any()]
    if thin:
        yield f"{len(thin)} regions are so thin that they cover no pixel ({few_of(thin)})"
    yield from _spellings(labels)


def _spellings(labels: LabelSet) -> Iterator[str]:
    kinds = labels.kinds()
    written = {
        k for image in labels.images for k in (*(i.kind for i in image.instances), *image.kinds)
    }
    for key, kind in kinds.items():
        variants = sorted(name for name in written if name.casefold() == key)
        if len(variants) > 1:
            yield f"{', '.join(map(_short, variants))} are taken for a single kind, {_short(kind)}"
    for a, b in combinations([k for k in kinds if len(k) <= _LONGEST_TEXT][:_MOST_COMPARED], 2):
        if SequenceMatcher(None, a, b).ratio() >= _ALIKE and min(len(a), len(b)) > 3:
            yield f"{kinds[a]} and {kinds[b]} are spelt alike: if they are one kind, rename it"


def _short(kind: str) -> str:
    return kind if len(kind) <= _LONGEST_TEXT else f"{kind[:_LONGEST_TEXT]}…"
