import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from anomaly.bundle import Bundle
from anomaly.preprocess import preprocess
from anomaly.types import RgbImage
from tests.conftest import normal_pixels, planted
from training import evidence as evidence_module
from training.config import TrainConfig
from training.evidence import _Material, _Pair, altered_cells, fit_repair
from training.progress import QUIET
from training.working_copy import WorkingCopy


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


def test_the_head_learns_in_bfloat16_what_it_learns_in_float32(
    tiny_bundle: Bundle, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[torch.nn.Module] = []
    plain = evidence_module.WorkingCopy

    def counted(network: torch.nn.Module) -> WorkingCopy:
        copies.append(network)
        return plain(network)

    monkeypatch.setattr(evidence_module, "WorkingCopy", counted)
    generator = torch.Generator().manual_seed(0)
    grid = tiny_bundle.model.target.grid
    normal = torch.randn(12, grid.length, 192, generator=generator)
    altered = torch.zeros(12, grid.rows, grid.cols)
    altered[:, 2:5, 2:5] = 1
    changed = normal + 2 * altered.flatten(1).unsqueeze(2)
    material = _Material(
        _Pair(normal.half(), normal.half()),
        _Pair(changed.half(), normal.half()),
        torch.arange(12),
        altered,
    )
    for precision in ("fp32", "bf16"):
        model = copy.deepcopy(tiny_bundle.model)
        assert model.repair is not None
        run = replace(tiny_config.run, precision=precision)
        fit_repair(model, material, replace(tiny_config, run=run), progress=QUIET)
        with torch.inference_mode():
            [logits] = model.repair([changed], [normal])
        inside, outside = logits[altered.flatten(1) == 1], logits[altered.flatten(1) == 0]
        assert float(inside.quantile(0.1)) > float(outside.quantile(0.9))
        assert next(model.repair.parameters()).dtype == torch.float32
    assert len(copies) == 1
