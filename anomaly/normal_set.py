"""Evidence on normal images and on corrupted copies of them: what a calibration is fitted on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from anomaly.encoding import Encoding
from anomaly.errors import CalibrationError
from anomaly.scoring import Evidence
from anomaly.types import FloatArray, Grid


@dataclass(frozen=True, slots=True)
class NormalSet:
    """Evidence on N normal images, the group each belongs to, and corrupted copies of them.

    `grid` is the map's; `corrupted` holds the evidence on M copies with synthetic defects; copy j
    was made of image `origin[j]`, so that both fall into the same fold; `altered` (M, L) bool are
    the cells that its defect covers. `roi_mask` (N, L) bool are the cells inside the region of
    interest; None: all. `inputs` (N, 5) are the `anomaly.input_statistics` of each image,
    `encodings` what its header says. `fold_models` is how many models gathered the evidence, each
    on images that it had not seen; 0 where one had seen none.
    """

    evidence: Evidence
    groups: tuple[str, ...]
    grid: Grid
    corrupted: Evidence | None = None
    origin: tuple[int, ...] = ()
    altered: torch.Tensor | None = None
    roi_mask: torch.Tensor | None = None
    inputs: FloatArray | None = None
    encodings: tuple[Encoding, ...] = ()
    fold_models: int = 0

    def __post_init__(self) -> None:
        corrupted = None if self.corrupted is None else self.corrupted.values
        inputs = None if self.inputs is None else torch.from_numpy(self.inputs)
        gathered = (self.evidence.values, corrupted, inputs)
        if not all(array is None or bool(torch.isfinite(array).all()) for array in gathered):
            raise CalibrationError(
                "the model's evidence on the normal images is not finite (NaN or infinite), so no "
                "threshold follows from it; check the model with 'maskline doctor --models MODEL', "
                "or train it again"
            )

    def roi_masks(self, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor | None:
        """Cells of some images that count, (n, L)."""
        return None if self.roi_mask is None else self.roi_mask[rows]

    @property
    def copies_roi_mask(self) -> torch.Tensor | None:
        """Cells of the corrupted copies that count, (M, L)."""
        return self.roi_masks(torch.tensor(self.origin, dtype=torch.int64))

    @property
    def seen_copies(self) -> torch.Tensor:
        """Copies whose defect is not wholly outside the region of interest, (M,) bool."""
        roi_mask = self.copies_roi_mask
        if roi_mask is None or self.altered is None:
            return torch.ones(len(self.origin), dtype=torch.bool)
        return (self.altered & roi_mask).any(dim=1)

    def with_copies(self, normal: torch.Tensor, copies: torch.Tensor) -> torch.Tensor:
        """Values of the normals (N, …), and of the copies (M, …) that are seen, behind them."""
        return torch.cat([normal, copies[self.seen_copies]])

    @property
    def roi_mask_with_copies(self) -> torch.Tensor | None:
        """Cells that count of what `with_copies` returns."""
        copies = self.copies_roi_mask
        if self.roi_mask is None or copies is None:
            return None
        return self.with_copies(self.roi_mask, copies)

    def is_copy(self, scores: np.ndarray) -> np.ndarray:
        """Which of the scores of what `with_copies` returns are of copies."""
        return np.arange(len(scores)) >= len(self.groups)


def folds_of(groups: Sequence[str], folds: int) -> np.ndarray:
    """Assign each image a fold (N,), whole groups together, folds of an even number of groups."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    order = np.random.default_rng(0).permutation(len(names))
    assigned: np.ndarray = (order % folds)[member]
    return assigned


def joined(sets: Sequence[NormalSet]) -> NormalSet:
    """Put the evidence on several sets of images together, in order."""
    first = [0, *np.cumsum([len(normals.groups) for normals in sets]).tolist()]

    def stacked(tensors: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
        present = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(present) if present else None

    copies = [normals.corrupted for normals in sets if normals.corrupted is not None]
    inputs = [normals.inputs for normals in sets if normals.inputs is not None]
    return NormalSet(
        Evidence.concatenate([normals.evidence for normals in sets]),
        tuple(group for normals in sets for group in normals.groups),
        sets[0].grid,
        Evidence.concatenate(copies) if copies else None,
        tuple(first[i] + of for i, normals in enumerate(sets) for of in normals.origin),
        stacked([normals.altered for normals in sets]),
        stacked([normals.roi_mask for normals in sets]),
        np.concatenate(inputs) if inputs else None,
        tuple(encoding for normals in sets for encoding in normals.encodings),
    )
