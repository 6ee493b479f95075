"""What an inspection leaves for those who judge a part without its image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from anomaly.encoding import Encoding
from anomaly.errors import require_shape
from anomaly.heatmap import decode_grey, encode_grey
from anomaly.scoring import Evidence
from anomaly.types import Detection, FloatArray, Placement
from record.keep import Arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvidence:
    """Evidence on one part, for another calibration or for a person.

    `errors` is (E, L) float16, averaged over masks; `map` the patch scores (rows, cols) float16;
    `inputs` what `anomaly.input_statistics` says of the image; `weights` the digest of the weights
    that gathered it. `encoding` is None where it was stored before that was kept; `detail` is that
    of the detection, if somebody looked closer. `vectors` (n, D) float16 describe the regions of
    the answer in their order (`anomaly.description`); None where they could not be described.
    """

    errors: np.ndarray
    map: np.ndarray
    map_threshold: float
    placement: Placement
    white_level: int
    inputs: FloatArray
    encoding: Encoding | None
    weights: str
    detail: NDArray[np.uint8] | None = None
    vectors: NDArray[np.float16] | None = None

    @classmethod
    def of(
        cls,
        detection: Detection,
        *,
        inputs: FloatArray,
        encoding: Encoding,
        white_level: int,
        weights: str,
        vectors: FloatArray | None = None,
    ) -> "StoredEvidence":
        """Take what a detection rests on."""
        assert detection.errors is not None
        return cls(
            errors=detection.errors,
            map=detection.patch_scores.astype(np.float16),
            map_threshold=detection.map_threshold,
            placement=detection.placement,
            white_level=white_level,
            inputs=inputs,
            encoding=encoding,
            weights=weights,
            detail=detection.detail,
            vectors=None if vectors is None else vectors.astype(np.float16),
        )

    def arrays(self) -> Arrays:
        """Return it as the record keeps it."""
        placement = self.placement
        kept = {
            "errors": self.errors,
            "map": self.map,
            "map_threshold": np.array([self.map_threshold], np.float32),
            "placement": np.array((*placement.source, *placement.canvas, *placement.box), np.int32),
            "white_level": np.array([self.white_level], np.int32),
            "inputs": self.inputs,
            "weights": np.frombuffer(bytes.fromhex(self.weights), np.uint8),
        }
        if self.encoding is not None:
            kept["encoding"] = self.encoding.row()
        if self.detail is not None:  # nearly all of it is 0
            kept["detail"] = np.frombuffer(encode_grey(self.detail), np.uint8)
        if self.vectors is not None:
            kept["vectors"] = self.vectors
        return kept

    @classmethod
    def of_arrays(cls, kept: Arrays) -> "StoredEvidence":
        """Read it back."""
        h, w, canvas_h, canvas_w, *box = (int(value) for value in kept["placement"])
        top, left, bottom, right = box
        encoding, detail = kept.get("encoding"), kept.get("detail")
        return cls(
            errors=kept["errors"],
            map=kept["map"],
            map_threshold=float(kept["map_threshold"][0]),
            placement=Placement((h, w), (canvas_h, canvas_w), (top, left, bottom, right)),
            white_level=int(kept["white_level"][0]),
            inputs=kept["inputs"],
            encoding=None if encoding is None else Encoding.of_row(encoding),
            weights=kept["weights"].tobytes().hex(),
            detail=None if detail is None else decode_grey(detail),
            vectors=kept.get("vectors"),
        )


def errors_of(evidence: Sequence[StoredEvidence], names: tuple[str, ...]) -> Evidence:
    """Stack stored evidence, (N, 1, E, L), of kinds that are called so.

    Whoever asks has held its `weights` to the model's: those of a model with other kinds differ.
    Raises `ShapeError` where somebody has not.
    """
    kinds = {len(item.errors) for item in evidence}
    require_shape("errors", (*kinds,), f"({len(names)},) kinds", ok=kinds <= {len(names)})
    stacked = np.stack([item.errors for item in evidence]).astype(np.float32)
    return Evidence(torch.from_numpy(stacked).unsqueeze(1), names)
