"""A JSON-Lines manifest to samples: every line an image, and every mistake named with its line.

UTF-8 with or without a byte-order mark, and UTF-16 with one, are read. Lines end at a line feed and
nowhere else: other line separators are text inside JSON.
"""

import codecs
import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from anomaly.image import EXTENSIONS
from training.errors import DataError
from training.labels import label_of, split_of
from training.samples import NORMAL, SPLITS, Sample, printable

_KEYS = ("image", "label", "mask", "split", "session")
_LONGEST_BYTES = 1_000_000  # of a line
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods")


def read_manifest(path: Path, notes: list[str]) -> list[Sample]:
    """Read a manifest, noting what was understood; raises `DataError`.

    Where no line has a split, the defects are the test split, and the rest is drawn.
    """
    if path.suffix.lower() in EXTENSIONS:
        raise DataError(
            f"{printable(path)} is one image; want a folder of them, or a .jsonl manifest"
        )
    if path.suffix.lower() in _TABLES:
        raise DataError(
            f"{printable(path)} is a table; want JSON Lines: "
            'one {"image": "a.png", "label": "good"} a line'
        )
    goods: Counter[str] = Counter()
    rows = (pair for pair in lines(path) if pair[1].strip())
    samples = [_sample(path, number, line, goods) for number, line in rows]
    if any(name != json.dumps(NORMAL) for name in goods):
        notes.append(f"labels taken for good parts: {', '.join(sorted(goods))}")
    _refuse_repeated(path, samples)
    return _with_drawn(samples)


def _with_drawn(samples: list[Sample]) -> list[Sample]:
    """Say which splits are to be drawn where the manifest has none."""
    splits = {sample.split for sample in samples} - {""}
    missing = () if "validation" in splits else ("validation",)
    if splits:
        return [
            replace(s, split="train", drawn_into=missing) if s.split in ("", "train") else s
            for s in samples
        ]
    if all(sample.is_normal for sample in samples):
        return [replace(s, split="train", drawn_into=("train", "validation")) for s in samples]
    return [
        replace(s, split="train", drawn_into=("train", "validation", "test"))
        if s.is_normal
        else replace(s, split="test")
        for s in samples
    ]


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield a manifest's lines with their numbers; raises `DataError` for what is no text."""
    with path.open("rb") as file:
        start = file.read(4)
        bom, encoding = next(((b, e) for b, e in _BOMS if start.startswith(b)), (b"", "utf-8"))
        file.seek(len(bom))
        if encoding != "utf-8":
            text = _decoded(file.read(), encoding, str(printable(path)))
            yield from enumerate(text.split("\n"), start=1)
            return
        for number in count(1):
            line = file.readline(_LONGEST_BYTES + 1)
            if not line:
                return
            where = f"{printable(path)}, line {number}"
            if len(line) > _LONGEST_BYTES:
                raise DataError(
                    f"{where} is longer than {_LONGEST_BYTES} bytes; want one image a line"
                )
            yield number, _decoded(line, encoding, where)


def _decoded(data: bytes, encoding: str, where: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is not {encoding.upper()} (byte {error.start}); save the manifest as UTF-8"
        ) from error


def _sample(path: Path, number: int, line: str, goods: Counter[str]) -> Sample:
    where = f"{printable(path)}, line {number}"
    row = _row(path, where, line)
    image = _file(path, where, row, "image")
    if image is None:
        raise DataError(f"{where} lacks 'image'")
    label, split = _label(where, row), _split(where, row)
    if label == NORMAL:
        goods[json.dumps(row.get("label", NORMAL), ensure_ascii=False)] += 1
    name = os.path.relpath(image, path.parent)
    session = _session(where, row)
    mask = _file(path, where, row, "mask")
    return Sample(image, label, split, name if session is None else session, mask, name=name)


def _row(path: Path, where: str, line: str) -> dict[str, Any]:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        hint = ""
        if line.lstrip().startswith("[") and where.endswith("line 1"):
            hint = "; a JSON array is not read: want one object a line"
        raise DataError(f"{where} is not JSON: {error}{hint}") from error
    if isinstance(row, list):
        raise DataError(f"{where} is a JSON array and lacks 'image'; want one object a line")
    if not isinstance(row, dict):
        raise DataError(f'{where} lacks \'image\'; want {{"image": "a.png"}}')
    if "source-ref" in row:
        raise DataError(
            f"{where} is of Lookout for Vision; first: maskline labels convert "
            f"{printable(path)} TARGET "
            "--to mvtec --images FOLDER"
        )
    if unknown := row.keys() - set(_KEYS):
        raise DataError(f"{where} has the unknown key {min(unknown)!r}; known: {sorted(_KEYS)}")
    return row


def _file(path: Path, where: str, row: dict[str, Any], key: str) -> Path | None:
    """Return the file that a line names; a relative one lies beside the manifest."""
    name = row.get(key)
    if name is None and (key != "image" or key not in row):
        return None
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(f"{where} has the {key} {json.dumps(name)[:80]}; want the path of a file")
    file = path.parent / name
    try:
        exists = file.is_file() or (key == "mask" and file.is_dir())
    except (OSError, ValueError):  # too long, or characters that no file name has
        exists = False
    if not exists:
        raise DataError(f"{where} names {printable(file)}, which is not a file")
    return file


def _label(where: str, row: dict[str, Any]) -> str:
    label = row.get("label", NORMAL)
    if isinstance(label, int) and not isinstance(label, bool) and label in (0, 1):
        return NORMAL if label == 0 else "anomalous"
    if not isinstance(label, str) or not label.strip():
        raise DataError(
            f"{where} has the label {json.dumps(label)[:80]}; want 'good' (or 0), the kind of "
            "defect, or 1"
        )
    return label_of(printable(label), f"{where}: the label")


def _split(where: str, row: dict[str, Any]) -> str:
    if "split" not in row:
        return ""
    name = row["split"]
    split = split_of(name) if isinstance(name, str) else None
    if split is None:
        raise DataError(f"{where} has the split {name!r:.80}; want one of {SPLITS}")
    return split


def _session(where: str, row: dict[str, Any]) -> str | None:
    if "session" not in row:
        return None
    session = row["session"]
    is_number = isinstance(session, int) and not isinstance(session, bool)
    if isinstance(session, str) and session:
        return printable(session)
    if not is_number and not (isinstance(session, float) and math.isfinite(session)):
        raise DataError(
            f"{where} has the session {json.dumps(session)[:80]}; want a name or number, or "
            "leave it out"
        )
    return str(session)


def _refuse_repeated(path: Path, samples: list[Sample]) -> None:
    repeated = Counter(sample.name for sample in samples).most_common(1)
    if repeated and repeated[0][1] > 1:
        name, times = repeated[0]
        raise DataError(
            f"{printable(path)} has {printable(name)} in {times} lines; every image counts once"
        )
