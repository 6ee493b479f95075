"""What is normal, and the threshold for a stated false-alarm rate: a calibration, as a value.

`anomaly.calibrate` fits it on normal images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from anomaly.conformal import (
    Conformal,
    check_rate,
)
from anomaly.encoding import Encodings
from anomaly.errors import CalibrationError
from anomaly.image_score import Reduction
from anomaly.normalise import Normaliser
from anomaly.roi import Roi
from anomaly.scoring import Evidence
from anomaly.types import FloatArray, Grid, Placement, Verdict, verdict_of

MAP_SMOOTHINGS = (1.0, 0.5, 0.0)  # in patches; the first where there is nothing to choose by


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to score that was tried, and how well it told synthetic defects from normals.

    `synthetic_auroc` is None where there were no corrupted copies to try it on.
    """

    normalisers: tuple[str, ...]
    reduction: Reduction
    synthetic_auroc: float | None


@dataclass(frozen=True, slots=True)
class Rates:
    """Share of the calibration images that the threshold rejects; groups count once each.

    `in_sample`: scored by normalisers that know them. `held_out`: each group scored by normalisers
    and judged by a threshold that do not know it. What is stated must hold for the second; the
    first flatters.
    """

    in_sample: float
    held_out: float


@dataclass(frozen=True, slots=True)
class ReferenceStatistics:
    """Statistics of the calibration images: `values` (N, K), `weights` (N,) as in `Conformal`.

    The statistics are those of `anomaly.input_statistics` and, where the model has a memory,
    `embedding`: how far an image lies from the remembered ones.
    """

    names: tuple[str, ...]
    values: FloatArray
    weights: FloatArray


@dataclass(frozen=True, slots=True)
class CalibrationSettings:
    """The settings of a calibration: how often it may be wrong, and where it looks."""

    false_alarm_rate: float = 0.01
    warn_rate: float | None = None
    roi: Roi | None = None

    def __post_init__(self) -> None:
        check_rate(self.false_alarm_rate)
        if self.warn_rate is not None and not self.false_alarm_rate < self.warn_rate < 1:
            raise CalibrationError(
                f"a warning rate of {self.warn_rate} makes no sense; want more than the "
                f"false-alarm rate ({self.false_alarm_rate}) and less than 1"
            )


DEFAULT_SETTINGS = CalibrationSettings()


@dataclass(frozen=True, slots=True)
class Calibration:
    """Makes raw evidence comparable, fuses it and gives it a threshold.

    `weights` (E,) are the weights of the kinds of evidence; `reduction` makes the image score,
    while maps are smoothed by `map_smoothing` patches. `images` are the image scores of held-out
    normals, `peaks` the maxima of their maps; thresholds for both follow from `false_alarm_rate`.
    Between the thresholds for `warn_rate` and for that a part is doubtful. Only what lies in `roi`
    counts. `rates` are the false alarms among the calibration images themselves; `encodings` says
    how those were encoded.
    """

    normalisers: tuple[Normaliser, ...]
    weights: torch.Tensor
    reduction: Reduction
    images: Conformal
    peaks: Conformal
    false_alarm_rate: float
    map_smoothing: float = MAP_SMOOTHINGS[0]
    candidates: tuple[Candidate, ...] = ()
    warn_rate: float | None = None
    roi: Roi | None = None
    rates: Rates | None = None
    reference: ReferenceStatistics | None = None
    encodings: Encodings | None = None

    @property
    def threshold(self) -> float:
        """Image score above which a part is NG."""
        return self.images.threshold(self.false_alarm_rate)

    @property
    def warn_threshold(self) -> float | None:
        """Image score above which a part is doubtful; None where nothing is."""
        return None if self.warn_rate is None else self.images.threshold(self.warn_rate)

    @property
    def map_threshold(self) -> float:
        """Map value above which a place is anomalous; it anchors the heatmaps."""
        return max(self.peaks.threshold(self.false_alarm_rate), 1e-3)

    @property
    def synthetic_auroc(self) -> float | None:
        """How well the chosen score tells synthetic defects from normals; None if never tried."""
        in_use = (tuple(n.kind for n in self.normalisers), self.reduction)
        tried = (c for c in self.candidates if (c.normalisers, c.reduction) == in_use)
        return next((c.synthetic_auroc for c in tried), None)

    @property
    def is_certified(self) -> bool:
        """Whether there are enough normal groups for the stated false-alarm rate."""
        return self.images.smallest_rate <= self.false_alarm_rate

    def at_rate(self, rate: float) -> "Calibration":
        """Return the same calibration with another stated false-alarm rate."""
        check_rate(rate)
        return replace(self, false_alarm_rate=rate)

    def patch_scores(self, evidence: Evidence) -> torch.Tensor:
        """Return comparable scores of every repeat, (B, R, L), not smoothed."""
        return fuse(self.normalisers, self.weights, evidence)

    def image_scores(
        self, evidence: Evidence, grid: Grid, roi_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return one score for each image, (B,); `roi_mask` are the cells that `roi` leaves."""
        return self.reduction(self.patch_scores(evidence).mean(dim=1), grid, roi_mask)

    def verdict(self, score: float) -> Verdict:
        """Judge a score."""
        return verdict_of(score, self.threshold, self.warn_threshold)

    def embedding(self, evidence: Evidence) -> torch.Tensor | None:
        """Distance of images from the remembered ones, (B,); 0 is usual; None without a memory."""
        return embedding_of(self.normalisers[0], evidence)

    def map_scores(
        self, scores: torch.Tensor, grid: Grid, roi_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Smooth patch scores (..., L), from which heatmaps and regions are drawn."""
        return Reduction(self.map_smoothing).smooth(scores, grid, roi_mask)

    def roi_mask(self, placement: Placement, grid: Grid) -> torch.Tensor | None:
        """Which cells count in an image with this placement, (L,) bool; None: all."""
        return None if self.roi is None else self.roi.mask(placement, grid)


def embedding_of(normaliser: Normaliser, evidence: Evidence) -> torch.Tensor | None:
    """Distance of images from the remembered ones, (B,); 0 is usual; None without a memory."""
    rows = [i for i, name in enumerate(evidence.names) if name.startswith("memory.")]
    if not rows:
        return None
    return normaliser(evidence.values)[:, :, rows].mean(dim=(1, 2, 3))


def fuse(
    normalisers: Sequence[Normaliser], weights: torch.Tensor, evidence: Evidence
) -> torch.Tensor:
    """Average over normalisers, then weigh the kinds of evidence: (B, R, L)."""
    fused = [torch.einsum("brel,e->brl", n(evidence.values), weights) for n in normalisers]
    return torch.stack(fused).mean(dim=0)
