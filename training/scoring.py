"""Files to scores, one record each; a file that cannot be read is a record, not the end."""

import json
from collections import Counter, deque
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from anomaly.bundle import load_bundle
from anomaly.detector import Detector
from anomaly.device import choose_device, share_cores, usable_cores
from anomaly.encoding import encoding_of, read_header
from anomaly.errors import ImageError, ScoreNotFinite
from anomaly.familiarity import unfamiliar
from anomaly.heatmap import encode_jpeg, overlay
from anomaly.image import EXTENSIONS, decode_image
from anomaly.input_statistics import input_statistics
from anomaly.kinds import KindHead, fit_kinds
from anomaly.preprocess import preprocess
from anomaly.runtime import detector_of
from anomaly.types import Detection, FloatArray, RgbImage
from training.checkpoint import write_whole
from training.data import say
from training.errors import DataError
from training.files import read_tree
from training.labels import is_truth_name
from training.layouts import images_below
from training.outputs import HEATMAPS, claim, file_name
from training.samples import Listing, printable

_CHUNK = 8
_DECODERS = 2
_RECORD = b'{"image": "'  # how every record begins


def score_files(
    model: Path,
    images: Sequence[Path],
    *,
    heatmaps: Path | None = None,
    device: str = "auto",
    done: Container[str] = (),
) -> Iterator[dict[str, Any]]:
    """Score files, or the images of folders: a record each, in order, except those in `done`.

    Records have `status` `ok` or `error`. With `heatmaps`, an overlay is written for each, under a
    name that the record gives: it shows the image's and differs for every path. A few images are in
    memory at a time, however many there are; of the rest only the names. Nobody waits for one
    image, so every core of a CPU scores images of its own: torch has one thread from here on.
    """
    where, cores = choose_device(device), usable_cores()
    share = share_cores(where.type, cores, batches=cores)
    torch.set_num_threads(share.threads)
    bundle = load_bundle(model)
    detector = detector_of(bundle, where)
    head = None if bundle.examples is None else fit_kinds(bundle.examples.bounded())
    if heatmaps is not None:
        claim(heatmaps, HEATMAPS)
    to_score = (path for path in expand(images) if str(path) not in done)
    chunks = iter(lambda: list(islice(to_score, _CHUNK)), [])
    decode = partial(_decode, canvas=detector.model.config.preprocess.canvas)
    with ThreadPoolExecutor(_DECODERS) as decoders, ThreadPoolExecutor(share.lanes) as pool:

        def score(chunk: list[Path]) -> list[dict[str, Any]]:
            decoded = list(decoders.map(decode, chunk))
            return list(_score_chunk(detector, chunk, decoded, heatmaps, head=head))

        for records in _in_order(pool, score, chunks, ahead=share.lanes):
            yield from records


def _in_order(
    pool: ThreadPoolExecutor,
    work: Callable[[list[Path]], list[dict[str, Any]]],
    chunks: Iterator[list[Path]],
    *,
    ahead: int,
) -> Iterator[list[dict[str, Any]]]:
    """Work on chunks in the pool, that many ahead of the one whose records are yielded."""
    begun: deque[Future[list[dict[str, Any]]]] = deque()
    for chunk in chunks:
        begun.append(pool.submit(work, chunk))
        if len(begun) > ahead:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def read_done(records: Path) -> set[str]:
    """Return the images in a JSON-Lines file, and cut off a last line that was not written whole.

    Raises `DataError` when it is no such file.
    """
    if not records.exists():
        return set()
    done, length = set(), 0
    with records.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                if not _begins_a_record(line):
                    raise _foreign(records)
                break
            try:
                done.add(str(json.loads(line)["image"]))
            except (ValueError, KeyError, TypeError) as error:
                raise _foreign(records) from error
            length += len(line)
        file.truncate(length)
    return done


def _foreign(records: Path) -> DataError:
    return DataError(
        f"{records} holds something else than records of 'maskline score', and stays as it is; "
        "choose another file"
    )


def _score_chunk(
    detector: Detector,
    paths: Sequence[Path],
    decoded: Sequence[RgbImage | dict[str, Any]],
    heatmaps: Path | None,
    *,
    head: KindHead | None,
) -> Iterator[dict[str, Any]]:
    readable = [image for image in decoded if isinstance(image, RgbImage)]
    inspections = iter(_inspected(detector, readable))
    for path, image in zip(paths, decoded, strict=True):
        if not isinstance(image, RgbImage):
            yield {"image": str(path), "status": "error", **image}
            continue
        detection, inputs = next(inspections)
        if isinstance(detection, ScoreNotFinite):
            detail = {"code": detection.code, "detail": str(detection)}
            yield {"image": str(path), "status": "error", **detail}
            continue
        detection = _named(detector, head, detection)
        warnings = unfamiliar(detector.calibration, encoding_of(read_header(path), image), inputs)
        record = _record(path, detection) | {"warnings": [asdict(warning) for warning in warnings]}
        if heatmaps is not None:
            full_image = image if image.sent is None else decode_image(path.read_bytes())
            picture = heatmaps / heatmap_name(path)
            _write_overlay(picture, full_image, detection, detector)
            record["heatmap"] = str(picture)
        yield record


def heatmap_name(image: Path) -> str:
    """Return an image's overlay file name: the same for the same path, another for any other."""
    return f"{file_name(str(image.absolute().parent), image.suffix, image.stem)}_heatmap.jpg"


def is_records(ends: bytes) -> bool:
    """Whether a file that begins so may hold records, perhaps only the beginning of one."""
    first, newline, _ = ends.partition(b"\n")
    if not newline:
        return _begins_a_record(first)
    try:
        row = json.loads(first)
    except ValueError:
        return False
    return isinstance(row, dict) and {"image", "status"} <= row.keys()


def _begins_a_record(line: bytes) -> bool:
    return line[: len(_RECORD)] == _RECORD[: len(line)]


def _named(detector: Detector, head: KindHead | None, detection: Detection) -> Detection:
    """Name the regions by what the model learned from folders, if it did."""
    vectors = None if head is None else detector.describe(detection)
    if head is None or vectors is None or not len(vectors):
        return detection
    return replace(detection, regions=head.named(detection.regions, vectors))


def _inspected(
    detector: Detector, images: Sequence[RgbImage]
) -> Iterator[tuple[Detection | ScoreNotFinite, FloatArray]]:
    """Yield for each image what was detected and what `anomaly.input_statistics` says of it.

    All are inspected at once; where one has no finite score, each by itself.
    """
    if not images:
        return
    pixels, placements = preprocess(images, detector.model.config.preprocess)
    try:
        detections: Sequence[Detection | ScoreNotFinite] = detector.detect_canvases(
            pixels, placements
        )
    except ScoreNotFinite as error:
        if len(images) > 1:
            for image in images:
                yield from _inspected(detector, [image])
            return
        detections = [error]
    for canvas, detection in zip(pixels, detections, strict=True):
        yield detection, input_statistics(canvas.permute(1, 2, 0).contiguous().numpy())


def _decode(path: Path, canvas: int | None = None) -> RgbImage | dict[str, Any]:
    """Return the image, or what is wrong with it."""
    try:
        return decode_image(path.read_bytes(), canvas=canvas)
    except ImageError as error:
        return {"code": error.code, "detail": str(error)}
    except OSError as error:
        return {"code": "file_unreadable", "detail": str(error)}


def _record(path: Path, detection: Detection) -> dict[str, Any]:
    return {
        "image": str(path),
        "status": "ok",
        "verdict": detection.verdict,
        "score": detection.pred_score,
        "p_value": detection.p_value,
        "threshold": detection.threshold,
        "score_std": detection.score_std,
        "regions": [asdict(region) for region in detection.regions],
    }


def expand(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield files, and folders' images at any depth, except ground truth and what is no image."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        left_out: Counter[str] = Counter()
        folder = read_tree(path, left_out)
        images = list(images_below(folder, left_out, is_truth_name))
        if not images:
            raise DataError(
                f"no images in {printable(path)} or below; files read: {', '.join(EXTENSIONS)}"
            )
        counts = {"to score": len(images)}
        say(Listing(printable(path), "whatever they show", counts, dict(left_out.most_common())))
        yield from images


def _write_overlay(path: Path, image: RgbImage, detection: Detection, detector: Detector) -> None:
    white_level = detector.model.config.preprocess.white_level
    write_whole(path, encode_jpeg(overlay(image, detection, white_level)))
