"""What lies in a folder: which images are good, which are defective, and in what split.

It reads, at any depth: splits with a folder for each kind (MVTec AD and LOCO, BTAD), folders of
good and bad without splits (`OK/NG`, VisA's `Normal/Anomaly`), images with their mask beside them
(Kolektor), and folders of nothing but good parts. The error names whatever looks like something
else: every image taken for normal must be normal.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from training.errors import DataError
from training.files import Folder
from training.labels import is_defect_name, is_mask_name, is_normal_name, label_of, split_of
from training.pairs import paired, read_pairs
from training.samples import NORMAL, Listing, Sample, few_of, printable
from training.truth import check_masks, with_masks

_MANIFEST_HINT = 'write a manifest: a line {"image": ..., "label": ..., "mask": ...} for each image'
_UNSAID = (
    ", and nothing says which of the images are good: put good parts into good/ and others into a "
    f"folder for their kind, or {_MANIFEST_HINT}"
)
_COCO_BYTES = 65_536
_SIDECARS = (".json", ".xml", ".txt")


@dataclass(slots=True)
class Reading:
    """What is gathered while a folder is read."""

    root: Path
    layouts: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def sample(self, path: Path, label: str, split: str, drawn_into: tuple[str, ...]) -> Sample:
        """Make a sample that is its own session."""
        name = path.relative_to(self.root).as_posix()
        return Sample(path, label, split, name, name=name, drawn_into=drawn_into)

    def listing(self, counts: Mapping[str, int]) -> Listing:
        """Return what was taken and left out."""
        layout = ", ".join(
            name if folders == 1 else f"{name} in {folders} folders"
            for name, folders in self.layouts.items()
        )
        left_out = dict(self.left_out.most_common())
        source = printable(self.root.absolute().name)
        return Listing(source, layout, dict(counts), left_out, tuple(dict.fromkeys(self.notes)))


def read_layout(folder: Folder, reading: Reading) -> Iterator[Sample]:
    """Yield a folder's images, at any depth, as samples; raises `DataError` if not understood."""
    return _read(folder, None, reading)


def images_below(
    folder: Folder, left_out: Counter[str], is_left_out: Callable[[str], bool]
) -> Iterator[Path]:
    """Yield all images of a folder and below, whatever they show, but for folders of some names."""
    yield from (folder.path / name for name in folder.images)
    for below in folder.folders:
        if is_left_out(below.name):
            if count := sum(1 for _ in below.below()):
                left_out[f"images in {printable(below.name)}/"] += count
        else:
            yield from images_below(below, left_out, is_left_out)


def _read(folder: Folder, truth: Folder | None, reading: Reading) -> Iterator[Sample]:
    truth = next((below for below in _masks_in(folder) if below.has_images), truth)
    if splits := _splits(folder):
        yield from _split_set(folder, splits, truth, reading)
    elif _has_kinds(folder):
        yield from _kinds_set(folder, truth, reading)
    elif paired(folder.images):
        yield from _pairs_set(folder, reading)
    else:
        yield from _plain(folder, truth, reading)


def _masks_in(folder: Folder) -> list[Folder]:
    return [below for below in folder.folders if is_mask_name(below.name)]


def _splits(folder: Folder) -> list[tuple[str, Folder]]:
    named = ((split_of(below.name), below) for below in folder.folders)
    return [(split, below) for split, below in named if split is not None and below.has_images]


def _kinds(folder: Folder) -> list[Folder]:
    return [f for f in folder.folders if f.has_images and not is_mask_name(f.name)]


def _has_kinds(folder: Folder) -> bool:
    kinds = _kinds(folder)
    if {kind.name for kind in kinds} - {"0", "1"}:  # lots may have numbers for names
        kinds = [kind for kind in kinds if kind.name != "0"]
    for kind in kinds:
        label_of(kind.name, f"the folder {printable(kind.path)}")
    return any(is_normal_name(kind.name) or is_defect_name(kind.name) for kind in kinds)


def _split_set(
    folder: Folder, splits: Sequence[tuple[str, Folder]], truth: Folder | None, reading: Reading
) -> Iterator[Sample]:
    reading.layouts["train/validation/test"] += 1
    given_splits = {split for split, _ in splits}
    _refuse_defects_as_lots(splits)
    by_truth: dict[Path, tuple[Folder, list[Sample]]] = {}
    for split, below in splits:
        drawn = ("validation",) if split == "train" and "validation" not in given_splits else ()
        masks = next(iter(_masks_in(below)), truth)
        samples = _one_split(below, split, masks, drawn=drawn, reading=reading)
        yield from samples
        if masks is not None:
            by_truth.setdefault(masks.path, (masks, []))[1].extend(samples)
    for masks, samples in by_truth.values():
        check_masks([sample for sample in samples if not sample.is_normal], masks)
    _leave_out(folder, [below for _, below in splits], reading)


def _refuse_defects_as_lots(splits: Sequence[tuple[str, Folder]]) -> None:
    """Folders of a training split without good/ are lots of good parts if the test split agrees."""
    bad = {
        k.name for s, f in splits if s == "test" for k in _kinds(f) if not is_normal_name(k.name)
    }
    for split, folder in splits:
        lots = [] if split == "test" or _has_kinds(folder) else _kinds(folder)
        if defects := [lot.name for lot in lots if lot.name in bad]:
            raise DataError(
                f"{printable(folder.path / defects[0])} could be a lot of good parts, but "
                f"{printable(defects[0])}/ is a kind of defect in test/; put good parts into "
                f"{folder.name}/good"
            )


def _one_split(
    folder: Folder, split: str, truth: Folder | None, *, drawn: tuple[str, ...], reading: Reading
) -> list[Sample]:
    if paired(folder.images):
        return read_pairs(folder, split, drawn, reading.sample)
    if split != "test" and not _has_kinds(folder):
        _refuse_annotated(folder, reading)
        if masks := [below for below in _masks_in(folder) if below.has_images]:
            raise _masks_of_unclear(masks[0], folder)
        paths = images_below(folder, reading.left_out, is_mask_name)
        return [reading.sample(path, NORMAL, split, drawn) for path in paths]
    if folder.images:
        reading.left_out[
            f"images in {printable(folder.name)}/ without a folder for their kind"
        ] += len(folder.images)
    return _of_kinds(folder, split, truth, drawn=drawn, reading=reading)


def _of_kinds(
    folder: Folder, split: str, truth: Folder | None, *, drawn: tuple[str, ...], reading: Reading
) -> list[Sample]:
    samples: list[Sample] = []
    kinds = _kinds(folder)
    good = [kind.name for kind in kinds if is_normal_name(kind.name)]
    if {name.casefold() for name in good} - {NORMAL} or len(good) > 1:
        reading.notes.append(
            f"taken for good parts: {folder.name}/{few_of([*map(printable, good)])}"
        )
    for kind in kinds:
        label = label_of(kind.name, f"the folder {printable(kind.path)}")
        paths = images_below(kind, reading.left_out, is_mask_name)
        of_kind = [reading.sample(path, label, split, drawn) for path in paths]
        samples += of_kind if label == NORMAL else with_masks(of_kind, kind, truth)
    return samples


def _kinds_set(folder: Folder, truth: Folder | None, reading: Reading) -> Iterator[Sample]:
    reading.layouts["a folder for each kind"] += 1
    kinds = _kinds(folder)
    good = [kind for kind in kinds if is_normal_name(kind.name)]
    unclear = [k.name for k in kinds if k not in good and not is_defect_name(k.name)]
    if unclear and not good:
        bad = next(kind.name for kind in kinds if is_defect_name(kind.name))
        raise DataError(
            f"{printable(folder.path)} has defects in {printable(bad)}/, and it is unclear what "
            f"{few_of([*map(printable, unclear)])} hold; put good parts into good/"
        )
    drawn = ("train", "validation", "test")[: 3 if len(kinds) > len(good) else 2]
    samples = _of_kinds(folder, "train", truth, drawn=drawn, reading=reading)
    samples = [s if s.is_normal else replace(s, split="test", drawn_into=()) for s in samples]
    if truth is not None:
        check_masks([s for s in samples if not s.is_normal], truth)
    if folder.images:
        reading.left_out["images beside the folders for each kind"] += len(folder.images)
    yield from samples


def _pairs_set(folder: Folder, reading: Reading) -> Iterator[Sample]:
    reading.layouts["masks beside their images"] += 1
    samples = read_pairs(folder, "train", ("train", "validation", "test"), reading.sample)
    for sample in samples:
        yield sample if sample.is_normal else replace(sample, split="test", drawn_into=())
    for below in folder.folders:
        yield from _read(below, None, reading)


def _plain(folder: Folder, truth: Folder | None, reading: Reading) -> Iterator[Sample]:
    _refuse_annotated(folder, reading)
    if folder.images:
        if truth is not None:
            raise _masks_of_unclear(truth, folder)
        reading.layouts["good parts only"] += 1
    for name in folder.images:
        yield reading.sample(folder.path / name, NORMAL, "train", ("train", "validation"))
    for below in folder.folders:
        if not is_mask_name(below.name):
            yield from _read(below, truth, reading)


def _masks_of_unclear(truth: Folder, folder: Folder) -> DataError:
    return DataError(
        f"{printable(truth.path)} looks like masks of the images in "
        f"{printable(folder.path)}{_UNSAID}"
    )


def _leave_out(folder: Folder, used: Sequence[Folder], reading: Reading) -> None:
    unused = [f for f in folder.folders if f not in used and not is_mask_name(f.name)]
    count = len(folder.images) + sum(1 for below in unused for _ in below.below())
    if count:
        reading.left_out["images outside of train, validation, test"] += count


def _refuse_annotated(folder: Folder, reading: Reading) -> None:
    """Refuse images with annotations that are not read here: some of them are defective."""
    if not folder.has_images:
        return
    for below in (folder, *_masks_in(folder)):
        for name in below.others:
            if below is not folder or (
                name.lower().endswith(".json") and _is_coco(folder.path / name)
            ):
                raise DataError(
                    f"{printable(below.path / name)} looks like annotations (COCO, YOLO, VOC or "
                    f"such), which are not read{_UNSAID}; maskline labels convert makes such "
                    "folders of most"
                )
    stems = {Path(name).stem for name in folder.images}
    beside = [n for n in folder.others if Path(n).stem in stems and n.lower().endswith(_SIDECARS)]
    if beside:
        reading.notes.append(
            f"{len(beside)} files called as their images ({printable(beside[0])}) were not read: "
            f"where they mark defects, {_MANIFEST_HINT}"
        )


def _is_coco(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(_COCO_BYTES)
    except OSError:
        return False
    return b'"images"' in start or b'"annotations"' in start or b'"categories"' in start
