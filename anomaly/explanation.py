"""Which kinds of evidence made a part's score, and where.

The score is linear in the evidence once the cells that decide it are fixed: so it is a sum of what
every family contributes there, in its own unit, and nothing has to be estimated.
"""

from dataclasses import dataclass

import numpy as np
import torch

from anomaly.bands import spread_grid, unfolded
from anomaly.calibration import Calibration, fuse
from anomaly.scoring import Evidence
from anomaly.types import Grid, Placement

_MOST_CELLS = 10


@dataclass(frozen=True, slots=True)
class FamilyEvidence:
    """What one family of evidence said of a part.

    `score` is the part's score if the family alone had all the weight, and `weight` its share of
    the weight. `contribution` is its part of the score: those of all families add up to it. `share`
    is its part of what made the deciding cells stand out from the usual, in [0, 1], where a family
    that spoke for the part counts nothing; they add up to 1.
    """

    family: str
    score: float
    weight: float
    contribution: float
    share: float


@dataclass(frozen=True, slots=True)
class DecidingCell:
    """One of the cells whose mean is the score; `box` is (x, y, width, height) of the caller's."""

    box: tuple[int, int, int, int]
    score: float
    family: str  # the one that says most there


@dataclass(frozen=True, slots=True)
class Explanation:
    """A part's score by a calibration, and what it is made of; the strongest comes first."""

    score: float
    families: tuple[FamilyEvidence, ...]
    cells: tuple[DecidingCell, ...]


def explain(
    evidence: Evidence, calibration: Calibration, grid: Grid, placement: Placement
) -> Explanation:
    """Say what one image's evidence (1, R, E, L) rests on; z-scores of 0 are the usual."""
    mask = calibration.roi_mask(placement, grid)
    names = families_of(evidence.names)
    maps, weights = _maps(evidence, calibration)  # (F, 1, L)
    scores = family_scores(evidence, calibration, grid, mask)
    by_family = calibration.reduction.smooth(maps[:, 0], grid, mask)  # (F, L)
    total = by_family.sum(dim=0)
    cells = _deciding(total, calibration.reduction.top_share, mask)
    contributions = by_family[:, cells].mean(dim=1).tolist()
    families = [
        FamilyEvidence(*of_family)
        for of_family in zip(
            names,
            (float(scores[name]) for name in names),
            weights,
            contributions,
            _shares(contributions, weights),
            strict=True,
        )
    ]
    return Explanation(
        score=float(total[cells].mean()),
        families=tuple(sorted(families, key=lambda family: -family.share)),
        cells=tuple(
            DecidingCell(
                _box(int(cell), grid, placement),
                float(total[cell]),
                names[int(by_family[:, cell].argmax())],
            )
            for cell in cells[:_MOST_CELLS]
        ),
    )


def family_scores(
    evidence: Evidence, calibration: Calibration, grid: Grid, roi_mask: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Scores (B,) of images by each family, as if it alone had all the weight.

    `roi_mask` (L,) or (B, L) are the cells that count.
    """
    maps, weights = _maps(evidence, calibration)
    return {
        name: calibration.reduction(of_family / (weight or 1.0), grid, roi_mask)
        for name, of_family, weight in zip(families_of(evidence.names), maps, weights, strict=True)
    }


def _maps(evidence: Evidence, calibration: Calibration) -> tuple[torch.Tensor, list[float]]:
    """What each family adds to the patch scores, (F, B, L), and its share of the weight."""
    averaged, weights = evidence.averaged(), calibration.weights
    weighed = [weights * _members(evidence.names, name) for name in families_of(evidence.names)]
    maps = [fuse(calibration.normalisers, item, averaged)[:, 0] for item in weighed]
    total = float(weights.sum())
    return torch.stack(maps), [float(item.sum()) / total for item in weighed]


def families_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the families of kinds of evidence, in their order."""
    return tuple(dict.fromkeys(name.partition(".")[0] for name in names))


def weight_of(family: str, names: tuple[str, ...], weights: torch.Tensor) -> float:
    """Return a family's share of the weights (E,), 0 for one that is not there."""
    return float((weights * _members(names, family)).sum() / weights.sum())


def _members(names: tuple[str, ...], family: str) -> torch.Tensor:
    return torch.tensor([float(name.partition(".")[0] == family) for name in names])


def _shares(contributions: list[float], weights: list[float]) -> list[float]:
    """Return shares of what lies above the usual; where nothing does, they are the weights."""
    excess = [max(0.0, contribution) for contribution in contributions]
    total = sum(excess)
    return [value / total for value in excess] if total > 0 else weights


def _deciding(smoothed: torch.Tensor, top_share: float, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the cells whose mean is the image score (`Reduction.image_score`), highest first."""
    if mask is None:
        count = max(1, round(top_share * len(smoothed)))
        return smoothed.topk(count).indices
    count = max(1, int((top_share * mask.sum()).round()))
    return smoothed.masked_fill(~mask, -torch.inf).sort(descending=True).indices[:count]


def _box(cell: int, grid: Grid, placement: Placement) -> tuple[int, int, int, int]:
    """Return a cell's (x, y, width, height) in the caller's pixels."""
    spread = spread_grid(grid, placement.canvas)
    square = np.arange(grid.length).reshape(grid.rows, grid.cols)
    row, column = (
        int(place[0]) for place in np.nonzero(unfolded(square, (spread.rows, spread.cols)) == cell)
    )
    top, left = placement.to_source(row * grid.patch, column * grid.patch)
    bottom, right = placement.to_source((row + 1) * grid.patch, (column + 1) * grid.patch)
    x, y = int(left), int(top)
    return x, y, max(1, int(np.ceil(right)) - x), max(1, int(np.ceil(bottom)) - y)
