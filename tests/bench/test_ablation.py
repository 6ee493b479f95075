from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from anomaly.bundle import Bundle
from anomaly.detector import Detector
from bench.ablation import doubtful_first, gather, predictors, score
from training.data import open_dataset
from training.decoding import STRICT


def test_the_most_doubtful_patches_are_hidden_together_and_every_patch_once() -> None:
    doubt = torch.arange(40.0)
    masks = doubtful_first(doubt, 40, seed=3)
    assert masks.shape == (1, 8, 40)
    assert masks[0, 0].nonzero().flatten().tolist() == [35, 36, 37, 38, 39]
    assert masks.sum(dim=1).eq(1).all()


@pytest.mark.slow
def test_the_default_row_is_what_the_detector_finds(tiny_bundle: Bundle, tiny_data: Path) -> None:
    model = tiny_bundle.model
    with torch.inference_mode():
        material = gather(model, tiny_data)
        tried = predictors(model)
        scored = score(model, material, model.predict)
        again = score(model, material, tried["a second look, beside the default"])
    detector = Detector(model, scored.calibration)
    found = [
        detection.pred_score
        for batch in STRICT.batches(open_dataset(tiny_data).select("test"))
        for detection in detector.detect([image for _, image in batch])
    ]
    np.testing.assert_allclose(scored.images, found, rtol=0.02, atol=0.02)  # tokens are float16
    assert roc_auc_score(material.anomalous, again.images) > 0.5
    assert not torch.equal(again.maps, scored.maps)
