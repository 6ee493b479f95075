"""Held-out normal images to a calibration, choosing how to score by synthetic defects."""

from collections.abc import Sequence

import numpy as np
import torch

from anomaly.calibrate import calibrate
from anomaly.calibration import DEFAULT_SETTINGS, Calibration, CalibrationSettings
from anomaly.corruption import corrupt
from anomaly.encoding import Encoding, Header, encoding_of, read_header
from anomaly.input_statistics import input_statistics
from anomaly.model import AnomalyModel
from anomaly.normal_set import NormalSet
from anomaly.preprocess import content_seed, preprocess
from anomaly.roi import Roi
from anomaly.scoring import Evidence
from anomaly.types import FloatArray
from training.compression import file_bytes
from training.data import Sample
from training.decoding import STRICT, Decoding
from training.errors import DataError
from training.evidence import altered_cells
from training.groups import with_copies_together, with_groups
from training.progress import SHOWN, Progress

__all__ = ["calibrate_model", "canvas_errors", "measure", "with_groups"]

_MAX_CORRUPTED = 300
_COVERED = 0.5  # share of a cell that a defect must cover to count as altered


def calibrate_model(
    model: AnomalyModel,
    samples: Sequence[Sample],
    settings: CalibrationSettings = DEFAULT_SETTINGS,
    *,
    decoding: Decoding = STRICT,
    progress: Progress = SHOWN,
) -> Calibration:
    """Calibrate on normal images that the model was not trained on.

    Images of one session count as one, and so do copies of one file; see `with_groups`. Raises
    `DataError`, `CalibrationError`.
    """
    normals = measure(model, samples, settings.roi, decoding=decoding, progress=progress)
    return calibrate(normals, settings)


def measure(
    model: AnomalyModel,
    samples: Sequence[Sample],
    roi: Roi | None = None,
    *,
    decoding: Decoding = STRICT,
    progress: Progress = SHOWN,
) -> NormalSet:
    """Gather evidence on the images and on corrupted copies of them, and which cells `roi` leaves.

    Raises `DataError` where there is nothing to measure.
    """
    if not samples:
        raise DataError("no images to calibrate on; give held-out normal images")
    samples = with_copies_together(samples)
    generator = np.random.default_rng(0)
    errors: list[Evidence] = []
    copies: list[Evidence] = []
    groups: list[str] = []
    origin: list[int] = []
    altered: list[torch.Tensor] = []
    roi_masks: list[torch.Tensor] = []
    inputs: list[FloatArray] = []
    encodings: list[Encoding] = []
    grid = model.target.map_grid
    copies_of_each = _copies(len(samples))
    with progress.bar("calibration", total=len(samples), unit="image") as bar:
        side = model.config.preprocess.canvas
        for batch in decoding.on(side).batches(samples):
            images = [image for _, image in batch]
            pixels, placements = preprocess(images, model.config.preprocess)
            errors.append(canvas_errors(model, pixels))
            of = [i for i in range(len(images)) for _ in range(copies_of_each[len(groups) + i])]
            drawn = [corrupt(images[i], images[i - 1], generator) for i in of]
            if drawn:
                drawn_on, _ = preprocess([copy for copy, _ in drawn], model.config.preprocess)
                copies.append(canvas_errors(model, drawn_on))
                altered.append(altered_cells(model, [mask for _, mask in drawn]))
            origin += [len(groups) + i for i in of]
            inputs += [input_statistics(c.permute(1, 2, 0).contiguous().numpy()) for c in pixels]
            encodings += [encoding_of(_header(sample), image) for sample, image in batch]
            groups += [sample.session for sample, _ in batch]
            if roi is not None:
                roi_masks += [roi.mask(placement, grid) for placement in placements]
            bar.update(len(batch))
    if not errors:
        raise DataError("none of the calibration images can be read")
    return NormalSet(
        Evidence.concatenate(errors),
        tuple(groups),
        grid,
        Evidence.concatenate(copies) if copies else None,
        tuple(origin),
        torch.cat(altered).flatten(1) >= _COVERED if altered else None,
        torch.stack(roi_masks) if roi_masks else None,
        np.stack(inputs),
        tuple(encodings),
    )


def _header(sample: Sample) -> Header | None:
    return read_header(sample.path if sample.quality is None else file_bytes(sample))


@torch.inference_mode()
def canvas_errors(model: AnomalyModel, pixels: torch.Tensor) -> Evidence:
    """An inspection's evidence on (B, 3, S, S) canvases, averaged over repeats to save memory."""
    seeds = [content_seed(canvas) for canvas in pixels]
    errors: Evidence = model(pixels.to(model.target.mean.device), seeds)
    return errors.averaged().cpu()


def _copies(count: int) -> np.ndarray:
    """How many corrupted copies each image gets: two, fewer in large sets."""
    total = min(2 * count, _MAX_CORRUPTED)
    return np.diff(np.floor(np.linspace(0, total, count + 1))).astype(int)
