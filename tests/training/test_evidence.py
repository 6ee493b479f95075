import numpy as np
import torch

from anomaly.bundle import Bundle
from anomaly.preprocess import preprocess
from anomaly.types import RgbImage
from tests.conftest import normal_pixels, planted
from training.evidence import altered_cells


def test_the_repair_head_and_the_memory_see_a_planted_defect(tiny_bundle: Bundle) -> None:
    images = [RgbImage(normal_pixels(300)), RgbImage(planted(normal_pixels(300), 64, 48, 12))]
    pixels, _ = preprocess(images, tiny_bundle.model.config.preprocess)
    found = tiny_bundle.model(pixels, [1, 1])
    for family in ("memory", "repair"):
        kind = found.names.index(f"{family}.pixels")
        normal, defect = found.mean[:, kind].amax(dim=1).tolist()
        assert defect > normal


def test_altered_cells_lie_where_the_image_s_mask_does(tiny_bundle: Bundle) -> None:
    mask = np.zeros((96, 128), bool)
    mask[:, 64:] = True
    mask[:24] = False
    [share] = altered_cells(tiny_bundle.model, [mask])  # stretched to 8 × 8 cells
    assert share.shape == (8, 8)
    assert float(share[2:, 4:].min()) == 1
    assert float(share[:2].max()) == float(share[:, :4].max()) == 0


def test_evidence_of_one_seed_is_reproducible(tiny_bundle: Bundle) -> None:
    assert tiny_bundle.model.memory is not None
    bank = tiny_bundle.model.memory.banks[0]
    assert bool(torch.isfinite(bank).all())
    assert float(bank.std()) > 0.1
