"""The labelled head: a linear rule on the map's cells, beside the other evidence."""

from dataclasses import replace

import pytest
import torch

from anomaly.bundle import Bundle
from anomaly.calibrate import weigh
from anomaly.labelled_head import LabelledHead, inputs
from anomaly.model import AnomalyModel
from anomaly.normal_set import NormalSet
from anomaly.preprocess import preprocess
from anomaly.scoring import Evidence
from anomaly.types import Block, Grid, RgbImage
from tests.conftest import normal_pixels, with_detail

GRID = Grid(8, 8, 8)


def with_labelled(model: AnomalyModel) -> AnomalyModel:
    """The same model with a labelled head of random weights."""
    scoring = model.config.scoring
    families = (*scoring.families, "labelled")
    enlarged = AnomalyModel.empty(
        replace(model.config, scoring=replace(scoring, families=families))
    )
    enlarged.load_state_dict(model.state_dict(), strict=False)
    assert enlarged.labelled is not None
    generator = torch.Generator().manual_seed(0)
    enlarged.labelled.fit(
        [torch.randn(2 * b.channels, generator=generator) for b in model.target.blocks], -0.5
    )
    return enlarged.eval()


def canvases(model: AnomalyModel) -> torch.Tensor:
    images = [RgbImage(normal_pixels(30 + i)) for i in range(3)]
    return preprocess(images, model.config.preprocess)[0]


def test_it_is_linear_in_patch_and_difference(generator: torch.Generator) -> None:
    blocks = (Block("a", 3), Block("b", 5))
    head = LabelledHead(blocks)
    weights = [torch.randn(2 * block.channels, generator=generator) for block in blocks]
    head.fit(weights, 0.25)
    true, guess = (
        [torch.randn(2, 7, block.channels, generator=generator) for block in blocks]
        for _ in range(2)
    )
    for i, share in enumerate(head(true, guess)):
        difference = true[i] - guess[i]
        expected = torch.cat([true[i], difference], dim=-1) @ weights[i] + (0.25 if i == 0 else 0)
        torch.testing.assert_close(share, expected)
    assert [x.shape[-1] for x in inputs(true, guess)] == [6, 10]


def test_it_accuses_and_hardly_excuses() -> None:
    head = LabelledHead((Block("a", 3), Block("b", 3)))
    shares = torch.tensor([[[1.0, -4.0, 2.0], [2.0, 1.0, -2.0]]])
    torch.testing.assert_close(head.joined(shares), torch.tensor([[[3.0, -0.3, 0.0]]]))


def test_an_unfitted_head_says_nothing(tiny_bundle: Bundle) -> None:
    head = LabelledHead(tiny_bundle.model.target.blocks)
    assert all(not parameter.any() for parameter in head.parameters())


def test_other_evidence_stays_as_it_was(tiny_bundle: Bundle) -> None:
    model, enlarged = tiny_bundle.model, with_labelled(tiny_bundle.model)
    pixels = canvases(model)
    before, after = model(pixels, [1, 2, 3]), enlarged(pixels, [1, 2, 3])
    assert after.names == (*before.names, "labelled.cells")
    assert torch.equal(after.values[:, :, :-1], before.values)
    assert after.values[:, :, -1].std() > 0


def test_details_are_drawn_from_what_was_there_before(tiny_bundle: Bundle) -> None:
    model = with_detail(tiny_bundle.model)
    enlarged = with_labelled(model)
    canvas = canvases(model)[0]
    evidence = enlarged(canvas[None], [1]).mean[0]
    cells = torch.ones(model.target.map_grid.rows, model.target.map_grid.cols, dtype=torch.bool)
    assert torch.equal(
        enlarged.altered_share(canvas, evidence, cells),
        model.altered_share(canvas, evidence[:-1], cells),
    )


def drawn(*, labelled_noise: float, labelled_signal: float) -> NormalSet:
    """Forty normals and forty copies that one family tells; labels may accuse good parts."""
    generator = torch.Generator().manual_seed(3)
    normal, copies = (torch.randn(40, 1, 2, GRID.length, generator=generator) for _ in range(2))
    copies[:, :, 0, :6] += 1.5
    copies[:, :, 1, :6] += labelled_signal
    rare = torch.rand(40, 1, GRID.length, generator=generator) < 0.004
    normal[:, :, 1] += labelled_noise * rare
    names = ("masked.a.l2", "labelled.cells")
    groups = tuple(str(i) for i in range(40))
    altered = torch.zeros(40, GRID.length, dtype=torch.bool)
    altered[:, :6] = True
    return NormalSet(
        Evidence(normal, names), groups, GRID, Evidence(copies, names), tuple(range(40)), altered
    )


def test_labels_have_an_eighth_of_the_weight_and_less_where_that_hides_what_nobody_labelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def weight(normals: NormalSet) -> float:
        weights = weigh(normals)
        return float(weights[1] / weights.sum())

    assert weight(drawn(labelled_noise=0, labelled_signal=3)) == pytest.approx(1 / 8, abs=0.01)
    assert weight(drawn(labelled_noise=60, labelled_signal=3)) < 0.1
    assert weight(drawn(labelled_noise=0, labelled_signal=0)) < 0.1
    monkeypatch.setattr("anomaly.calibrate._LABELS_MAY_COST", -1.0)  # nothing is good enough
    assert weight(drawn(labelled_noise=0, labelled_signal=3)) == 0


def test_without_copies_they_have_a_sixteenth() -> None:
    normals = replace(
        drawn(labelled_noise=0, labelled_signal=3), corrupted=None, origin=(), altered=None
    )
    weights = weigh(normals)
    assert float(weights[1] / weights.sum()) == pytest.approx(1 / 16, abs=0.01)


def test_labels_alone_have_all_the_weight() -> None:
    normals = drawn(labelled_noise=0, labelled_signal=3)
    values = normals.evidence.values[:, :, 1:]
    alone = NormalSet(Evidence(values, ("labelled.cells",)), normals.groups, GRID)
    assert float(weigh(alone)[0]) == pytest.approx(1.0, abs=0.1)
