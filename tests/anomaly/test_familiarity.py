"""A different camera is told from a bad part, and good parts are seldom called unlike."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly.bundle import Bundle
from anomaly.calibration import Calibration, ReferenceStatistics
from anomaly.calibration_file import calibration_digest, calibration_from, tensors_of, values_of
from anomaly.conformal import Conformal, group_weights
from anomaly.encoding import Encoding, Encodings, encoding_of, read_header
from anomaly.familiarity import CODES, uncertified, unfamiliar
from anomaly.image import decode_image
from anomaly.input_statistics import STATISTICS, input_statistics
from anomaly.preprocess import PreprocessConfig, place
from tests.conftest import normal_pixels, planted, png

CONFIG = PreprocessConfig(canvas=64)


def jpeg(pixels: np.ndarray, quality: int = 95) -> bytes:
    return cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def looked_at(data: bytes) -> tuple[Encoding, np.ndarray]:
    image = decode_image(data)
    return encoding_of(read_header(data), image), input_statistics(place(image, CONFIG)[0])


def knowing(usual: ReferenceStatistics | None, encodings: Encodings | None) -> Calibration:
    """A calibration of which only its inputs matter here."""
    scores = Conformal.fit(np.arange(40, dtype=np.float32), tuple(map(str, range(40))))
    reduction, weights = None, torch.ones(1)
    return Calibration(
        (), weights, reduction, scores, scores, 0.05, reference=usual, encodings=encodings
    )  # type: ignore[arg-type]


def calibrated(images: list[bytes], groups: tuple[str, ...] | None = None) -> Calibration:
    seen = [looked_at(one) for one in images]
    weights = group_weights(groups or tuple(map(str, range(len(images)))))
    usual = ReferenceStatistics(STATISTICS, np.stack([inputs for _, inputs in seen]), weights)
    return knowing(usual, Encodings.of(encoding for encoding, _ in seen))


def codes(calibration: Calibration, data: bytes) -> set[str]:
    warnings = unfamiliar(calibration, *looked_at(data))
    assert all(one.code in CODES and one.text.startswith(one.code[:3]) for one in warnings)
    assert len({one.code for one in warnings}) == len(warnings)
    return {one.code for one in warnings}


@pytest.fixture(scope="module")
def camera() -> Calibration:
    """Calibrated on forty colour JPEGs of quality 95, 128 × 96."""
    return calibrated([jpeg(normal_pixels(n)) for n in range(40)])


def test_good_parts_of_the_same_camera_seldom_warn(camera: Calibration) -> None:
    warned = sum(bool(codes(camera, jpeg(normal_pixels(n)))) for n in range(1000, 1300))
    assert warned <= 3


def test_a_bad_part_of_the_same_camera_does_not_warn(camera: Calibration) -> None:
    for n in range(1000, 1020):
        assert codes(camera, jpeg(planted(normal_pixels(n), 60, 40, 12))) == set()


PART = normal_pixels(5000)
CHANGED: dict[str, tuple[bytes, set[str]]] = {
    "quality 50": (jpeg(PART, 50), {"compression"}),
    "quality 80": (jpeg(PART, 80), {"compression"}),
    "another size": (jpeg(normal_pixels(1, (192, 256))), {"size"}),
    "another aspect": (jpeg(normal_pixels(1, (128, 128))), {"size", "aspect"}),
    "turned": (jpeg(np.rot90(PART).copy()), {"size", "aspect"}),
    "PNG": (png(PART), {"format", "compression"}),
    "grey": (cv2.imencode(".jpg", PART[..., 1], [1, 95])[1].tobytes(), {"channels"}),
    "16 bits": (
        cv2.imencode(".png", PART[..., ::-1].astype(np.uint16) * 257)[1].tobytes(),
        {"bit_depth", "format", "compression"},
    ),
    "darker": (jpeg((PART * 0.6).astype(np.uint8)), {"brightness"}),
    "brighter": (jpeg((PART * 0.5 + 120).astype(np.uint8)), {"brightness"}),
    "flat": (jpeg((PART * 0.3 + 90).astype(np.uint8)), {"contrast"}),
    "blurred": (jpeg(cv2.GaussianBlur(PART, (0, 0), 3)), {"sharpness"}),
    "noisy": (
        jpeg(
            np.clip(PART + np.random.default_rng(0).normal(0, 25, PART.shape), 0, 255).astype(
                np.uint8
            )
        ),
        {"sharpness"},
    ),
    "warm": (jpeg((PART * [1.0, 0.85, 0.7]).astype(np.uint8)), {"colour"}),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_changed_camera_warns_of_what_changed(camera: Calibration, case: str) -> None:
    data, wanted = CHANGED[case]
    assert wanted <= codes(camera, data)


def test_texts_say_what_came_and_what_was_usual(camera: Calibration) -> None:
    [text] = [
        one.text
        for one in unfamiliar(camera, *looked_at(jpeg(PART, 50)))
        if one.code == "compression"
    ]
    assert text == ("compression: JPEG quality 50 (4:2:0); calibrated on JPEG quality 95 (4:2:0)")


@pytest.mark.parametrize("quality", [40, 60, 75, 85, 91])
@pytest.mark.parametrize("trained", [(95, 95), (96, 99)])
def test_other_compression_always_warns_and_the_same_never(
    quality: int, trained: tuple[int, int]
) -> None:
    low, high = trained
    known = calibrated([jpeg(normal_pixels(n), low + n % (high - low + 1)) for n in range(20)])
    assert "compression" in codes(known, jpeg(PART, quality))
    for same in range(low, high + 1):
        assert "compression" not in codes(known, jpeg(PART, same))


def test_a_set_of_many_kinds_is_familiar_with_each() -> None:
    kinds = [png(PART), jpeg(PART), jpeg(PART, 60), jpeg(normal_pixels(5, (64, 64)))]
    known = calibrated(kinds * 5)
    for data in kinds:
        assert codes(known, data) == set()


DISTRIBUTIONS = {
    "normal": lambda g, n: g.normal(0, 1, (n, 5)),
    "uniform": lambda g, n: g.uniform(0, 1, (n, 5)),
    "skewed": lambda g, n: g.gamma(2, 1, (n, 5)),
    "two lamps": lambda g, n: g.normal(0, 0.2, (n, 5)) + g.integers(0, 2, (n, 1)),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("count", [20, 100])
def test_whatever_the_spread_good_parts_warn_at_most_once_in_a_hundred(
    name: str, count: int
) -> None:
    generator = np.random.default_rng(count)
    encoding = Encoding("PNG", 100, 100, 3, 8)
    warned = parts = 0
    for _ in range(40):
        values = (10 * DISTRIBUTIONS[name](generator, count + 50)).astype(np.float32)
        weights = group_weights(tuple(map(str, range(count))))
        known = knowing(
            ReferenceStatistics(STATISTICS, values[:count], weights), Encodings.of([encoding])
        )
        warned += sum(bool(unfamiliar(known, encoding, one)) for one in values[count:])
        parts += 50
    assert warned / parts <= 0.01


def test_few_groups_are_not_held_for_the_whole_truth() -> None:
    images = [jpeg(normal_pixels(n)) for n in range(40)]
    darker = jpeg((PART * 0.75).astype(np.uint8))
    assert "brightness" in codes(calibrated(images), darker)
    assert "brightness" not in codes(calibrated(images, tuple("ab" * 20)), darker)


def test_a_calibration_that_knows_nothing_says_nothing() -> None:
    assert unfamiliar(knowing(None, None), *looked_at(jpeg(PART, 5))) == ()


@settings(max_examples=50)
@given(st.floats(1e-12, 0.99))
def test_a_rate_that_nothing_certifies_is_said(rate: float) -> None:
    known = knowing(None, None)
    [*said] = uncertified(known, rate)
    assert [one.code for one in said] == (["rate_uncertified"] if rate < 1 / 41 else [])
    assert uncertified(known, None) == ()
    before = uncertified(replace(known, estimates=False), rate)
    assert [("largest score" in one.text) for one in before] == [True] * len(said)
    assert [("an estimate" in one.text) for one in said] == [True] * len(said)


def test_what_was_calibrated_on_is_stored_and_old_models_stay_as_they_were(
    tiny_bundle: Bundle,
) -> None:
    known = tiny_bundle.calibration
    assert known is not None
    assert known.encodings is not None
    assert known.encodings.formats == ("PNG",)
    values, tensors = values_of(known), tensors_of(known)
    assert calibration_from(values, tensors).encodings == known.encodings
    del values["inputs"]
    before = calibration_from(values, tensors)
    assert before.encodings is None
    assert "inputs" not in values_of(before)
    assert (
        calibration_digest(before)
        == calibration_digest(replace(known, encodings=None))
        != calibration_digest(known)
    )
