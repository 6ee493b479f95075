"""Images in, detections out, in four steps. Read `Detector.detect_canvases` first."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from anomaly.bands import folded, spread_grid, unfolded
from anomaly.calibration import Calibration
from anomaly.description import describe
from anomaly.device import choose_device
from anomaly.errors import ScoreNotFinite
from anomaly.heatmap import canvas_map, coarse_map, find_regions, region_level, sharpened
from anomaly.image import decode_image
from anomaly.limits import DEFAULT_LIMITS, ImageLimits
from anomaly.model import AnomalyModel
from anomaly.preprocess import content_seed, preprocess
from anomaly.scoring import Evidence
from anomaly.types import (
    Detection,
    FloatArray,
    Grid,
    Placement,
    Region,
    RgbImage,
    check_finite,
)


class Detector:
    """A trained model with its calibration, on one device.

    `network` computes the same as the model in another way (an exported or captured graph), from
    canvases on the CPU; without one the model itself computes. On a CPU several threads may share a
    detector that has inspected once; on a GPU one thread owns it, as its graphs hold one batch.
    """

    def __init__(
        self,
        model: AnomalyModel,
        calibration: Calibration,
        device: str | torch.device = "cpu",
        *,
        network: Callable[[torch.Tensor, Sequence[int]], Evidence] | None = None,
        cameras: Mapping[str, Calibration] | None = None,
    ) -> None:
        self.device = choose_device(device) if isinstance(device, str) else device
        self.model = model.eval().to(self.device)
        self.calibration = calibration
        self.cameras = cameras or {}
        # Not a bound method: a detector in a reference cycle would wait for the garbage collector.
        self.network = network or partial(_by_model, self.model, self.device)

    @property
    def engine(self) -> str:
        """What computes evidence here, in words: library, version, precision."""
        by_torch = f"torch {torch.__version__.partition('+')[0]}, float32"
        return getattr(self.network, "engine", by_torch)

    def calibration_of(self, camera: str | None) -> Calibration:
        """Return the calibration for a camera's parts: its own, or the one for all others."""
        return self.cameras.get(camera or "", self.calibration)

    def with_calibration(self, calibration: Calibration, camera: str | None) -> "Detector":
        """Return the same model on the same device with one calibration replaced."""
        detector = copy.copy(self)
        if camera is None:
            detector.calibration = calibration
        else:
            detector.cameras = {**self.cameras, camera: calibration}
        return detector

    def detect(
        self,
        images: Sequence[RgbImage | bytes],
        cameras: Sequence[str | None] | None = None,
    ) -> list[Detection]:
        """Inspect images of any size; the answer for each does not depend on its batch-mates.

        An image is a file's bytes, or was decoded by `read`, or is pixels that were never a file.
        `cameras` names the camera or product of each, where some have a calibration of their own.
        """
        if not images:
            return []
        decoded = [self.read(image) if isinstance(image, bytes) else image for image in images]
        pixels, placements = preprocess(decoded, self.model.config.preprocess)  # (B, 3, S, S)
        return self.detect_canvases(pixels, placements, cameras)

    def read(self, data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> RgbImage:
        """Decode a file's bytes as in the model's training; raises what `decode_image` raises.

        This is the one way in: another decoding of a large JPEG has another score.
        """
        return decode_image(data, limits, canvas=self.model.config.preprocess.canvas)

    def detect_canvases(
        self,
        pixels: torch.Tensor,
        placements: Sequence[Placement],
        cameras: Sequence[str | None] | None = None,
    ) -> list[Detection]:
        """Inspect preprocessed canvases (B, 3, S, S) in [0, 1] on the CPU, one placement each."""
        # 1. Evidence: what the model cannot predict, and what else speaks against each place.
        #    The masks follow from the image's content, so that a part always has the same score.
        seeds = [content_seed(canvas) for canvas in pixels]
        evidence = self.network(pixels, seeds)  # values are (B, R, E, L)
        # 2. Calibrate: comparable scores, one for the image, judged by its camera's threshold.
        # 3. Draw: the map on the canvas, and regions in the caller's pixels.
        calibrations = [self.calibration_of(camera) for camera in cameras or [None] * len(seeds)]
        detections = [
            detection_of(evidence[i : i + 1], calibration, placement, self.model.target.map_grid)
            for i, (calibration, placement) in enumerate(zip(calibrations, placements, strict=True))
        ]
        # 4. Look closer where something stands out: which of its pixels are altered.
        closer = [
            self._closer(detection, canvas, against)
            for detection, canvas, against in zip(detections, pixels, evidence.mean, strict=True)
        ]
        if evidence.differences is None:
            return closer
        return [
            replace(detection, differences=differences)
            for detection, differences in zip(closer, evidence.differences, strict=True)
        ]

    def describe(self, detection: Detection) -> FloatArray | None:
        """Describe each region of a detection, (n, D); see `anomaly.description.describe`."""
        return describe(detection, self.model.target)

    def _closer(
        self, detection: Detection, canvas: torch.Tensor, evidence: torch.Tensor
    ) -> Detection:
        """Sharpen the map of a canvas (3, S, S) that has more than an OK part's evidence (E, L)."""
        highest = float(detection.anomaly_map.max())
        is_plain = detection.verdict == "OK" and highest <= detection.map_threshold
        if self.model.detail is None or is_plain or highest <= 0:
            return detection
        level = region_level(detection.anomaly_map, detection.map_threshold)
        cells = torch.from_numpy(folded(detection.patch_scores) > level)
        return in_detail(detection, self.model.altered_share(canvas, evidence, cells))


def _by_model(
    model: AnomalyModel, device: torch.device, pixels: torch.Tensor, seeds: Sequence[int]
) -> Evidence:
    return model.inspect(pixels.to(device), seeds).cpu()


def detection_of(
    errors: Evidence, calibration: Calibration, placement: Placement, grid: Grid
) -> Detection:
    """Reduce one image's evidence (1, R, E, L) to its verdict, map and regions.

    Raises `ScoreNotFinite`.
    """
    scores = calibration.patch_scores(errors)[0]  # (R, L)
    if not bool(torch.isfinite(scores).all()):  # a mean of the highest cells would hide -inf
        raise ScoreNotFinite(
            "the model's evidence on the image is not finite, so nothing can be said of the part; "
            "look at it by hand, and check the model with 'maskline doctor --models MODEL'"
        )
    roi_mask = calibration.roi_mask(placement, grid)  # (L,) or None
    mean = scores.mean(dim=0)  # (L,)
    pred_score = float(calibration.reduction(mean, grid, roi_mask))
    repeats = calibration.reduction(scores, grid, roi_mask)  # (R,)
    # The map as the picture lies, its bands one after the other; (rows, columns).
    spread = spread_grid(grid, placement.canvas)
    square = calibration.map_scores(mean, grid, roi_mask).numpy().reshape(grid.rows, grid.cols)
    patch_scores = unfolded(square, (spread.rows, spread.cols))
    embedding = calibration.embedding(errors)
    evidence = Detection(
        pred_score=pred_score,
        score_std=float(repeats.std(correction=0)),
        p_value=calibration.images.p_value(pred_score),
        patch_scores=patch_scores,
        anomaly_map=canvas_map(patch_scores, placement.canvas),
        placement=placement,
        errors=errors.averaged().values[0, 0].half().numpy(),
        warn_threshold=calibration.warn_threshold,
        embedding=None if embedding is None else float(embedding),
    )
    return judge(evidence, calibration.threshold, calibration.map_threshold)


def in_detail(detection: Detection, share: torch.Tensor) -> Detection:
    """Return the same verdict with a map as sharp as `share`, (S, S) in [0, 1] on the canvas."""
    placement, coarse = detection.placement, detection.anomaly_map
    on_square = (share * 255).round().to(torch.uint8).numpy()
    detail = unfolded(on_square, placement.canvas)
    level = region_level(coarse, detection.map_threshold)
    fine = replace(detection, anomaly_map=sharpened(coarse, detail, level), detail=detail)
    return judge(fine, detection.threshold, detection.map_threshold)


def judge(detection: Detection, threshold: float, map_threshold: float) -> Detection:
    """Return the same evidence under other thresholds: verdict and regions are drawn anew.

    Raises `ScoreNotFinite` where score or threshold is no finite number: NaN lies above no
    threshold.
    """
    check_finite(score=detection.pred_score, threshold=threshold, map_threshold=map_threshold)
    anomalous = detection.pred_score > threshold
    regions: tuple[Region, ...] = ()
    if anomalous:
        level = region_level(detection.anomaly_map, map_threshold)
        regions = find_regions(
            detection.anomaly_map, detection.placement, level, coarse_map(detection)
        )
    return replace(
        detection,
        threshold=threshold,
        map_threshold=map_threshold,
        is_anomalous=anomalous,
        regions=regions,
    )
