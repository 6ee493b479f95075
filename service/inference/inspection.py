"""What an inspection found, and what stands behind it."""

from dataclasses import dataclass

from anomaly.encoding import Encoding
from anomaly.familiarity import InputWarning
from anomaly.heatmap import encode_png
from anomaly.types import Detection, FloatArray, RgbImage, Verdict
from service.evidence import StoredEvidence
from service.inference.served_model import ServedModel

Source = bytes | RgbImage  # encoded, or decoded by the caller


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found in an image, and by which version.

    `detection` is judged as the request asked; `calibrated_verdict` is the calibration's own.
    `inputs` is what `anomaly.input_statistics` says of the image, `encoding` what its header does,
    `warnings` in what it is unlike those calibrated on. `vectors` (n, D) describe the detection's
    regions, where they could be described; `kinds` is the version of what names them.
    """

    model: ServedModel
    source: Source
    detection: Detection
    result_id: str
    inputs: FloatArray
    encoding: Encoding
    calibrated_verdict: Verdict
    warnings: tuple[InputWarning, ...] = ()
    vectors: FloatArray | None = None
    kinds: str | None = None

    @property
    def size(self) -> int:
        """Bytes of the image."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.pixels.nbytes

    @property
    def encoded(self) -> bytes:
        """The image as it was sent; one that came decoded as PNG."""
        return self.source if isinstance(self.source, bytes) else encode_png(self.source.pixels)

    def evidence(self) -> StoredEvidence:
        """What another calibration, or a person, needs to judge without the image."""
        return StoredEvidence.of(
            self.detection,
            inputs=self.inputs,
            encoding=self.encoding,
            white_level=self.model.config.preprocess.white_level,
            weights=self.model.bundle.weights,
            vectors=self.vectors,
        )
