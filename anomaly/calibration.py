"""What is normal, and the threshold for a stated false-alarm rate: a calibration, as a value.

`anomaly.calibrate` fits it on normal images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

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
from anomaly.tail import Estimate, Tail
from anomaly.types import FloatArray, Grid, Placement, Verdict, verdict_of

# What stands behind a threshold: enough groups to certify the stated rate; a fitted tail, where
# there are too few; the largest score (in models of earlier versions); somebody's hand.
Mode = Literal["certified", "estimated", "largest", "given"]
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
    """The settings of a calibration: how often it may be wrong, and where it looks.

    Without a `false_alarm_rate` the number of parts decides it (`anomaly.conformal.usual_rate`).
    """

    false_alarm_rate: float | None = None
    warn_rate: float | None = None
    roi: Roi | None = None
    threshold: float | None = None  # given by hand, whatever the rate says

    def __post_init__(self) -> None:
        if self.false_alarm_rate is not None:
            check_rate(self.false_alarm_rate)
        elif self.warn_rate is not None:
            raise CalibrationError("a warning rate needs a false-alarm rate beside it")
        if self.threshold is not None and not 0 < self.threshold < math.inf:
            raise CalibrationError(
                f"a threshold of {self.threshold} makes no sense; want a positive number"
            )
        rate = self.false_alarm_rate
        if rate is not None and self.warn_rate is not None and not rate < self.warn_rate < 1:
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

    Where the groups are too few to certify a rate, its threshold is estimated from a fitted tail,
    unless `estimates` is false. `given` is a threshold that somebody set. `synthetic` are the image
    scores of corrupted copies, sorted, and `fold_models` how many models scored the calibration
    images, each those that it had not seen (0: one, which had seen none). `odd` names the groups
    with images that score as no good part would by chance, the highest first.
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
    estimates: bool = True
    given: float | None = None
    synthetic: FloatArray | None = None
    fold_models: int = 0
    odd: tuple[str, ...] = ()
    # Image score above which a part is NG, and above which it is doubtful (None: nothing is); map
    # value above which a place is anomalous, which anchors the heatmaps.
    threshold: float = field(init=False)
    warn_threshold: float | None = field(init=False)
    map_threshold: float = field(init=False)

    def __post_init__(self) -> None:
        threshold = self.given
        if threshold is None:
            threshold = self.threshold_of(self.images, self.false_alarm_rate)
        warn_threshold = None
        if self.warn_rate is not None:
            warn_threshold = min(self.threshold_of(self.images, self.warn_rate), threshold)
        map_threshold = max(self.threshold_of(self.peaks, self.false_alarm_rate), 1e-3)
        object.__setattr__(self, "threshold", threshold)
        object.__setattr__(self, "warn_threshold", warn_threshold)
        object.__setattr__(self, "map_threshold", map_threshold)

    @property
    def mode(self) -> Mode:
        """What stands behind the threshold."""
        return "given" if self.given is not None else self.mode_at(self.false_alarm_rate)

    def mode_at(self, rate: float) -> Mode:
        """What would stand behind the threshold for a rate."""
        if self.images.smallest_rate <= rate:
            return "certified"
        return "estimated" if self.estimates else "largest"

    @property
    def estimate(self) -> Estimate | None:
        """What an estimated threshold may reject; None where another kind of threshold judges."""
        if self.mode != "estimated":
            return None
        return Tail.fit(self.images).estimate(self.false_alarm_rate)

    def threshold_of(self, normals: Conformal, rate: float) -> float:
        """Return the threshold for a rate by other scores, as this calibration finds its own."""
        if self.mode_at(rate) == "estimated":
            return Tail.fit(normals).estimate(rate).threshold
        return normals.threshold(rate)

    @property
    def synthetic_auroc(self) -> float | None:
        """How well the chosen score tells synthetic defects from normals; None if never tried."""
        in_use = (tuple(n.kind for n in self.normalisers), self.reduction)
        tried = (c for c in self.candidates if (c.normalisers, c.reduction) == in_use)
        return next((c.synthetic_auroc for c in tried), None)

    @property
    def is_certified(self) -> bool:
        """Whether there are enough normal groups for the stated false-alarm rate."""
        return self.mode == "certified"

    def at_rate(self, rate: float) -> "Calibration":
        """Return the same calibration with another stated false-alarm rate."""
        check_rate(rate)
        return replace(self, false_alarm_rate=rate, given=None)

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
