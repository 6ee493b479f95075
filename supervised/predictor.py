"""Images in, answers out: the whole flow of a model of labels in one place."""

from collections.abc import Sequence

import torch

from anomaly.device import to_device
from anomaly.preprocess import preprocess
from anomaly.types import Placement, RgbImage, check_finite
from supervised.bundle import SupervisedBundle
from supervised.types import Answer


class Predictor:
    """Answers for images with one model, on one device."""

    def __init__(self, bundle: SupervisedBundle, device: torch.device | str = "cpu") -> None:
        self.bundle = bundle
        self.config = bundle.config
        self.device = torch.device(device)
        self._network = bundle.network.to(self.device).eval()

    def predict(self, images: Sequence[RgbImage]) -> list[Answer]:
        """Say what is on each image; raises `ScoreNotFinite` where the model gives no number."""
        pixels, placements = preprocess(images, self.config.encoder.preprocess)
        return self.predict_canvases(pixels, placements)

    @torch.inference_mode()
    def predict_canvases(
        self, pixels: torch.Tensor, placements: Sequence[Placement]
    ) -> list[Answer]:
        """Say what is on each of (B, 3, S, S) canvases in [0, 1], in the callers' pixels."""
        answers = self._network.answers(to_device(pixels, self.device), placements)
        for answer in answers:
            scores = [score.probability for score in answer.classes]
            scores += [box.probability for box in answer.boxes]
            check_finite(**{f"probability {i}": score for i, score in enumerate(scores)})
        return answers
