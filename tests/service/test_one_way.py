"""One image has one score, whichever door it comes in by."""

from pathlib import Path

import cv2
import pytest
from fastapi.testclient import TestClient

from anomaly.bundle import Bundle, load_bundle
from anomaly.image import decode_image
from anomaly.runtime import detector_of
from service.app import create_app
from tests.conftest import jpeg, normal_pixels, planted, png
from tests.service.conftest import settings
from training.data import Sample
from training.decoding import STRICT
from training.scoring import score_files


@pytest.mark.parametrize("kind", ["large JPEG", "PNG"])
def test_bytes_score_the_same_to_the_last_digit_everywhere(
    tiny_folder: Path, tmp_path: Path, kind: str
) -> None:
    small = planted(normal_pixels(6001), 80, 40, 12)
    large = cv2.resize(small, (1500, 1100), interpolation=cv2.INTER_CUBIC)
    data = jpeg(large) if kind == "large JPEG" else png(small)
    path = tmp_path / "part.jpg"
    path.write_bytes(data)
    detector = detector_of(load_bundle(tiny_folder), "cpu")
    [python] = detector.detect([data])  # as in the README

    with TestClient(create_app(settings(tiny_folder))) as client:
        answer = client.post("/score", content=data).json()
    [record] = score_files(tiny_folder, [path], device="cpu")
    side = detector.model.config.preprocess.canvas
    [(_, read)] = STRICT.on(side).images([Sample(path, "good", "test", "part")])
    [evaluated] = detector.detect([read])

    assert python.pred_score == answer["score"] == record["score"] == evaluated.pred_score
    assert python.placement.source == (large if kind == "large JPEG" else small).shape[:2]


def test_another_decoding_of_a_large_jpeg_has_another_score(tiny_bundle: Bundle) -> None:
    """Why there is one way: it is not that the difference could not be seen."""
    large = cv2.resize(normal_pixels(6001), (1500, 1100), interpolation=cv2.INTER_CUBIC)
    detector = detector_of(tiny_bundle, "cpu")
    [read], [whole] = detector.detect([jpeg(large)]), detector.detect([decode_image(jpeg(large))])
    assert read.pred_score != whole.pred_score
