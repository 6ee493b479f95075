"""Files to scores, one record each; a file that cannot be read is a record, not the end."""

import json
from collections import Counter, deque
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from anomaly.bundle import load_bundle
from anomaly.detector import Detector
from anomaly.device import choose_device, share_cores, usable_cores
from anomaly.errors import ImageError
from anomaly.heatmap import encode_jpeg, overlay
from anomaly.image import EXTENSIONS, decode_image
from anomaly.types import Detection, RgbImage
from training.checkpoint import write_whole
from training.data import say
from training.errors import DataError
from training.files import read_tree
from training.labels import is_truth_name
from training.layouts import images_below
from training.samples import Listing, shown

_CHUNK = 8
_DECODERS = 2


def score_files(
    model: Path,
    images: Sequence[Path],
    *,
    heatmaps: Path | None = None,
    device: str = "auto",
    done: Container[str] = (),
) -> Iterator[dict[str, Any]]:
    """Score files, or the images of folders: a record each, in order, but for those in `done`.

    Records have `status` `ok` or `error`. With `heatmaps`, `<stem>_heatmap.jpg` is written for each. A
    few images are in memory at a time, however many there are; of the rest only the names. Nobody waits
    for one image, so every core of a CPU scores images of its own: torch has one thread from here on.
    """
    where, cores = choose_device(device), usable_cores()
    share = share_cores(where.type, cores, batches=cores)
    torch.set_num_threads(share.threads)
    detector = load_bundle(model).detector(where)
    if heatmaps is not None:
        heatmaps.mkdir(parents=True, exist_ok=True)
    wanted = (path for path in _expand(images) if str(path) not in done)
    chunks = iter(lambda: list(islice(wanted, _CHUNK)), [])
    decode = partial(_decode, canvas=detector.model.config.preprocess.canvas)
    with ThreadPoolExecutor(_DECODERS) as decoders, ThreadPoolExecutor(share.lanes) as pool:

        def score(chunk: list[Path]) -> list[dict[str, Any]]:
            return list(_score_chunk(detector, chunk, list(decoders.map(decode, chunk)), heatmaps))

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
    """Return the images that a JSON-Lines file has, cutting off a line that was not written to its end.

    Raises `DataError` when it is no such file.
    """
    if not records.exists():
        return set()
    done, whole = set(), 0
    with records.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                done.add(str(json.loads(line)["image"]))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{records} holds something else than records of 'maskline score'; choose "
                    "another file"
                ) from error
            whole += len(line)
        file.truncate(whole)
    return done


def _score_chunk(
    detector: Detector,
    paths: Sequence[Path],
    decoded: Sequence[RgbImage | dict[str, Any]],
    heatmaps: Path | None,
) -> Iterator[dict[str, Any]]:
    readable = [image for image in decoded if isinstance(image, RgbImage)]
    detections = iter(detector.detect(readable))
    for path, image in zip(paths, decoded, strict=True):
        if not isinstance(image, RgbImage):
            yield {"image": str(path), "status": "error", **image}
            continue
        detection = next(detections)
        if heatmaps is not None:
            whole = image if image.sent is None else decode_image(path.read_bytes())
            _write_overlay(heatmaps / f"{path.stem}_heatmap.jpg", whole, detection, detector)
        yield _record(path, detection)


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


def _expand(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield files, and the images of folders and below, but for ground truth and what is never an image."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        left_out: Counter[str] = Counter()
        folder = read_tree(path, left_out)
        images = list(images_below(folder, left_out, is_truth_name))
        if not images:
            raise DataError(
                f"no images in {shown(path)} or below; files read: {', '.join(EXTENSIONS)}"
            )
        counts = {"to score": len(images)}
        say(Listing(shown(path), "whatever they show", counts, dict(left_out.most_common())))
        yield from images


def _write_overlay(path: Path, image: RgbImage, detection: Detection, detector: Detector) -> None:
    white_level = detector.model.config.preprocess.white_level
    write_whole(path, encode_jpeg(overlay(image, detection, white_level)))
