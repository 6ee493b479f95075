"""The benchmarks of training: what they compare, and that they would notice."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from anomaly.mae import MaeConfig, MaskedAutoencoder
from anomaly.types import Grid
from bench.attention import halves, linear_attention, merge, merged
from bench.fewshot import few_table, joined, subset
from bench.killed import compared
from bench.training import group_of
from training.data import open_dataset


@pytest.mark.parametrize(
    ("operation", "group"),
    [
        ("aten::addmm", "matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "matrix products"),
        ("aten::native_layer_norm_backward", "normalisation"),
        ("aten::gelu", "activation"),
        ("aten::gather", "gathering and copying"),
        ("aten::_foreach_lerp_", "optimiser and average"),
        ("aten::add_", "the rest"),
    ],
)
def test_operations_are_counted_where_they_belong(operation: str, group: str) -> None:
    assert group_of(operation) == group


def test_a_run_that_differs_by_one_bit_is_noticed(tmp_path: Path) -> None:
    for name in ("unbroken", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.run").mkdir()
        save_file({"w": torch.ones(3)}, tmp_path / name / "model.safetensors")
        log = json.dumps({"step": 5, "loss": 0.5, "images_per_s": 7})
        (tmp_path / f"{name}.run/log.jsonl").write_text(log + "\n")
    assert compared(tmp_path) == []
    save_file({"w": torch.tensor([1.0, 1.0, 1.0 + 2**-23])}, tmp_path / "killed/model.safetensors")
    (tmp_path / "killed.run/log.jsonl").write_text("")
    assert compared(tmp_path) == ["w differs", "losses differ: 1 and 0 rows"]


def test_the_most_alike_pairs_are_merged() -> None:
    tokens = torch.eye(6).unsqueeze(0)  # (1, 6, 6): places 0, 2, 4 are even
    tokens[0, 2] = tokens[0, 5] * 3
    found = merge(tokens, 1)
    assert found.shape == (1, 5, 6)
    assert any(torch.allclose(row, tokens[0, 5] * 2) for row in found[0])
    assert merge(tokens, 99).shape == (1, 4, 6)  # one even place is always left


@torch.inference_mode()
def test_linear_attention_takes_softmaxs_place_and_gives_it_back() -> None:
    model = MaskedAutoencoder(
        MaeConfig(32, 2, 2, decoder_width=32, decoder_heads=2), Grid(4, 4, 16), 728
    )
    query = torch.randn(1, 2, 5, 8)
    usual = F.scaled_dot_product_attention(query, query, torch.ones_like(query))
    with linear_attention():
        linear = F.scaled_dot_product_attention(query, query, torch.ones_like(query))
        halves(model.eval(), 2)()
    torch.testing.assert_close(linear, usual)  # both average: of ones, one
    again = F.scaled_dot_product_attention(query, query, torch.ones_like(query))
    assert torch.equal(again, usual)
    halves(merged(model, 2), 1)()


def test_few_images_are_a_subset_and_tests_stay(tiny_data: Path) -> None:
    dataset = open_dataset(tiny_data)
    some = subset(dataset, 5, seed=1)
    assert len(some.select("train")) == 5
    assert some.select("test") == dataset.select("test")
    assert some == subset(dataset, 5, seed=1) != subset(dataset, 5, seed=2)
    assert all(s.split == "train" for s in joined([dataset, some]).samples)
    rows = [
        {"set": "a", "shots": 4, "adapted": adapted, "image_AUROC": 0.5 + adapted / 4, "train_s": 9}
        for adapted in (False, True)
    ]
    assert few_table(rows, [4]).splitlines()[-2:] == [
        "| a | scratch | 0.500 | 9 |",
        "| a | the other sets | 0.750 | 9 |",
    ]
