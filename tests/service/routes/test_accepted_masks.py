"""Found regions that people accept as the mask."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from anomaly.bundle import Bundle, save_bundle
from tests.conftest import normal_pixels, planted, png
from tests.service.results.test_evidence import BAD, flush
from tests.service.routes.test_masks import SIZE, code, inspected, opened, url
from tests.service.routes.test_results import results, served


@pytest.fixture
def client(tiny_folder: Path, tmp_path: Path) -> Iterator[TestClient]:
    with served(tiny_folder, tmp_path, keep="all") as open_client:
        yield open_client


TWO = png(planted(planted(normal_pixels(6001), 95, 70, 12), 30, 26, 12))


@pytest.fixture(params=["plain", "sharp"])
def accepting(
    request: pytest.FixtureRequest, tiny_folder: Path, sharp_bundle: Bundle, tmp_path: Path
) -> Iterator[TestClient]:
    models = tiny_folder
    if request.param == "sharp":
        models = tmp_path / "models/sharp"
        save_bundle(sharp_bundle, models, "v1")
    with served(models, tmp_path, keep="all") as client:
        yield client


def test_found_regions_become_the_mask(accepting: TestClient) -> None:
    client = accepting
    result = inspected(client, TWO)
    regions = client.get(f"/v1/results/{result}").json()["regions"]
    assert len(regions) > 1
    accept = f"/v1/results/{result}:accept"
    masks = []
    for indexes in ([0], [1], [0, 1], None):
        assert client.post(accept, json={"regions": indexes}).status_code == 204
        masks.append(opened(client.get(url(result)).content) > 0)
    first, second, both, every = masks
    assert first.shape == SIZE
    np.testing.assert_array_equal(first | second, both)
    assert not (both & ~every).any()
    for mask, region in ((first, regions[0]), (second, regions[1])):
        x, y, width, height = region["bbox"]
        outside = mask.copy()
        outside[y : y + height, x : x + width] = False
        assert not outside.any()
        px, py = region["peak"]
        assert mask[py, px]
        assert mask.sum() >= 0.5 * region["area_px"]


def test_a_large_picture_s_mask_has_its_own_size(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomaly.heatmap._MOST_PICTURE_PX", 10_000)
    pixels = planted(cv2.resize(normal_pixels(6001), (301, 211)), 180, 100, 30)
    result = inspected(client, png(pixels))
    assert client.post(f"/v1/results/{result}:accept", json={}).status_code == 204
    assert opened(client.get(url(result)).content).shape == (211, 301)


def test_regions_that_are_not_there_are_refused(client: TestClient) -> None:
    result = inspected(client)
    count = len(client.get(f"/v1/results/{result}").json()["regions"])
    accept = f"/v1/results/{result}:accept"
    for indexes, expected in (
        ([count], "mask_invalid"),
        ([0, 10**12], "mask_invalid"),
        ([], "parameter_invalid"),
        ([-1], "parameter_invalid"),
        (["a"], "parameter_invalid"),
        ("all", "parameter_invalid"),
        ([0] * 51, "parameter_invalid"),
    ):
        assert code(client.post(accept, json={"regions": indexes})) == (422, expected)
    assert code(client.post(accept, json={"region": [0]})) == (422, "parameter_invalid")
    assert code(client.post(accept)) == (422, "parameter_invalid")
    assert code(client.get(url(result))) == (404, "mask_missing")
    good = client.post("/score?threshold=1e6", content=BAD).json()["result_id"]
    results(client, 2)
    flush(client)
    refused = client.post(f"/v1/results/{good}:accept", json={})
    assert code(refused) == (422, "mask_invalid")
    assert "no regions" in refused.json()["detail"]
