"""What people said of recorded parts, written as a folder that training reads.

train/good/<result_id>.png                    a false alarm, or confirmed to be good
test/<kind>/<result_id>.jpg                   a confirmed or missed defect, by its name
ground_truth/<kind>/<result_id>_mask.png      where somebody marked its pixels
"""

import secrets
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sqlalchemy import select

from anomaly.directory import is_tiff
from anomaly.errors import ImageError
from anomaly.folders import replace_folder
from anomaly.image import decode_mask
from anomaly.png import SIGNATURE
from record.filters import last_said
from record.keep import KeptStore
from record.labelled import kind_rules_of
from record.result import Result
from record.store import Store
from record.tables import feedback
from service.kinds.spelling import spellings
from training.errors import DataError
from training.kind_folders import folders_of
from training.progress import Progress

UNNAMED = "defect"  # the kind of defects that nobody named
_GOOD = ("false_alarm", "confirmed_good")
_MAGIC = ((b"\xff\xd8", ".jpg"), (SIGNATURE, ".png"), (b"BM", ".bmp"))


@dataclass(frozen=True, slots=True)
class LabelledResult:
    """A result of which somebody spoke last; `kind` is the defect's, None of a good part."""

    result: Result
    kind: str | None


@dataclass(slots=True)
class Collection:
    """What was written, and what was not: `left_out` counts results by the reason."""

    good: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    masks: Counter[str] = field(default_factory=Counter)
    folders: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)


def labelled_results(
    store: Store, model: str | None, left_out: Counter[str]
) -> list[LabelledResult]:
    """Read what was said last of a model's parts, the oldest first; what was withdrawn counts out.

    Kinds have the names under which the service counts them (`service.kinds.spelling`).

    Raises `DataError` where there is nothing, or where parts of several models are labelled and
    none is named: they would lie in one folder.
    """
    last = last_said()
    with store.snapshot() as ask:
        rows = ask(select(last.c.result_id, last.c.kind, last.c.defect))
        spoken_of = [row["result_id"] for row in ask(select(feedback.c.result_id).distinct())]
    kinds = {
        row["result_id"]: None if row["kind"] in _GOOD else _kind_of(row["defect"]) for row in rows
    }
    results = store.by_ids(spoken_of)
    chosen_model = _checked(
        model, sorted({result.model for result in results if result.result_id in kinds})
    )
    results = sorted(
        (result for result in results if result.model == chosen_model),
        key=lambda result: (result.inspected_at, result.result_id),
    )
    labelled = [
        LabelledResult(result, kinds[result.result_id])
        for result in results
        if result.result_id in kinds
    ]
    rules = kind_rules_of(store, chosen_model).values()
    same_as = {rule.kind: rule.same_as for rule in rules if rule.same_as}
    spelt = spellings((item.kind for item in labelled if item.kind is not None), same_as)
    labelled = [replace(item, kind=item.kind and spelt[item.kind]) for item in labelled]
    if withdrawn := len(results) - len(labelled):
        left_out["what was said was withdrawn"] = withdrawn
    return labelled


def _kind_of(defect: str | None) -> str:
    return defect if defect is not None and defect.strip() else UNNAMED


def _checked(model: str | None, models: Sequence[str]) -> str:
    """Return the model whose parts are collected, of those that have labelled ones."""
    if model is None and len(models) > 1:
        raise DataError(
            f"parts of several models are labelled ({', '.join(models)}); name one with --model, "
            "so that each product has a folder of its own"
        )
    if not models or model not in (None, *models):
        of_model = "" if model is None else f" of the model {model!r}"
        elsewhere = f"; there are some of {', '.join(models)}" if models else ""
        raise DataError(
            f"nobody has said yet what parts{of_model} really were{elsewhere}. Give feedback on "
            "results, on the page or by POST /v1/results/{id}/feedback"
        )
    return model or models[0]


def write_folder(
    labelled: Sequence[LabelledResult], images: KeptStore, out: Path, progress: Progress
) -> Collection:
    """Write a new folder, whole or not at all. Raises `DataError` where no image is kept."""
    collection = Collection(folders=folders_of(item.kind for item in labelled if item.kind))
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    staging.mkdir()
    try:
        for item in progress.each(labelled, "collecting", total=len(labelled), unit="image"):
            _write(item, images, staging, collection)
        if not collection.good and not collection.kinds:
            reasons = "; ".join(f"{n}: {reason}" for reason, n in collection.left_out.items())
            raise DataError(f"none of {len(labelled)} labelled parts can be collected ({reasons})")
        replace_folder(staging, out, ())
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return collection


def _write(item: LabelledResult, images: KeptStore, root: Path, collection: Collection) -> None:
    result_id, at = item.result.result_id, item.result.inspected_at
    if item.kind is not None and item.kind not in collection.folders:
        collection.left_out["the name of its kind is too long for a folder"] += 1
        return
    # Twice: the service may move it between the two places where it is looked for.
    picture = images.image(result_id, at) or images.image(result_id, at)
    extension = None if picture is None else _extension(picture)
    if picture is None or extension is None:
        reason = "its image is not kept" if picture is None else "its image is of no kind we read"
        collection.left_out[reason] += 1
        return
    if item.kind is None:
        _put(root / "train/good" / f"{result_id}{extension}", picture)
        collection.good += 1
        return
    folder = collection.folders[item.kind]
    _put(root / "test" / folder / f"{result_id}{extension}", picture)
    collection.kinds[item.kind] += 1
    if (mask := images.mask(result_id)) is None:
        return
    if not _marks_something(mask):
        collection.left_out["its mask is damaged; its image is there without"] += 1
        return
    _put(root / "ground_truth" / folder / f"{result_id}_mask.png", mask)
    collection.masks[item.kind] += 1


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _extension(image: bytes) -> str | None:
    if is_tiff(image):
        return ".tif"
    return next((extension for magic, extension in _MAGIC if image.startswith(magic)), None)


def _marks_something(mask: bytes) -> bool:
    try:
        return bool(decode_mask(mask).any())
    except ImageError:
        return False
