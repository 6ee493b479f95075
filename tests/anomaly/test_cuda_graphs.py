import gc
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from anomaly.bundle import Bundle
from anomaly.cuda_graphs import StagedModel, fitting, sizes_to
from anomaly.detector import Detector
from anomaly.model import AnomalyModel
from anomaly.preprocess import content_seed
from anomaly.runtime import detector_of
from anomaly.scoring_path import ScoringPath, mask_indices
from training.config import load_recipe

CPU = torch.device("cpu")


def canvases(count: int, side: int) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_sizes_are_powers_of_two_and_the_next_one_is_taken() -> None:
    assert sizes_to(1) == [1]
    assert sizes_to(16) == [1, 2, 4, 8, 16]
    assert sizes_to(17)[-1] == 32
    assert [fitting(n, [1, 2, 4]) for n in (1, 2, 3, 4, 9)] == [1, 2, 4, 4, 4]


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_a_filled_up_batch_gives_each_image_its_own_evidence(
    tiny_bundle: Bundle, count: int
) -> None:
    model = tiny_bundle.model
    pixels = canvases(count, model.config.preprocess.canvas)
    seeds = [content_seed(one) for one in pixels]
    staged = StagedModel(model, CPU, 4, torch.float32)
    for _ in range(2):  # the second time buffers hold the first time's images
        found, wanted = staged(pixels, seeds), model(pixels, seeds)
        assert found.names == wanted.names
        torch.testing.assert_close(found.values, wanted.values, rtol=1e-4, atol=1e-4)
        pixels = pixels.flip(0).contiguous()


def test_bfloat16_in_the_autoencoder_moves_scores_by_less_than_other_machines_do(
    tiny_bundle: Bundle,
) -> None:
    model, calibration = tiny_bundle.model, tiny_bundle.calibration
    assert calibration is not None
    pixels = canvases(8, model.config.preprocess.canvas)
    seeds = [content_seed(one) for one in pixels]
    exact = calibration.patch_scores(model(pixels, seeds)).mean(dim=1)
    rounded = calibration.patch_scores(StagedModel(model, CPU, 8)(pixels, seeds)).mean(dim=1)
    assert not torch.equal(exact, rounded)
    assert (rounded - exact).abs().mean() < 0.02 * exact.std()


def test_a_size_that_does_not_fit_is_left_out(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_bundle.model
    plain = AnomalyModel.evidence

    def small(self: AnomalyModel, tokens: torch.Tensor, predicted: torch.Tensor) -> object:
        if len(tokens) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, tokens, predicted)

    monkeypatch.setattr("anomaly.cuda_graphs._captured", lambda path, inputs: path(*inputs))
    monkeypatch.setattr(AnomalyModel, "evidence", small)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    staged = _staged_as_on_a_gpu(model, monkeypatch)
    assert sorted(staged._stages) == [1, 2]


def test_what_a_graph_reads_stays_where_it_is(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph holds addresses only: writing over freed indices broke the card (docs/LOG.md)."""
    read: list[weakref.ref[torch.Tensor]] = []

    @torch.inference_mode()
    def captured(path: ScoringPath, inputs: Sequence[torch.Tensor]) -> Callable[[], torch.Tensor]:
        used = [*inputs, *path.parameters(), *path.buffers()]
        read.extend(weakref.ref(tensor) for tensor in used)
        evidence = path(*inputs)
        return lambda: evidence

    monkeypatch.setattr("anomaly.cuda_graphs._captured", captured)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    staged = _staged_as_on_a_gpu(tiny_bundle.model, monkeypatch)
    gc.collect()
    assert read
    assert all(tensor() is not None for tensor in read), staged


class _Constants(TorchDispatchMode):
    """Counts tensors that are made of Python's numbers while a path runs."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        self.made += func.overloadpacket is torch.ops.aten.lift_fresh
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["pixels", "features"])
def test_a_path_takes_nothing_from_ordinary_memory(tiny_bundle: Bundle, kind: str) -> None:
    """A GPU capture refuses copies of Python's values; pixel recipes could not be served."""
    model = tiny_bundle.model
    if kind == "features":
        model = AnomalyModel.fresh(load_recipe("fast", ["model.preprocess.canvas=64"]).model)
    path, side = ScoringPath(model), model.config.preprocess.canvas
    inputs = (canvases(1, side), *mask_indices(model, [0]))
    with torch.inference_mode(), _Constants() as constants:
        path(*inputs)
    assert constants.made == 0
    with _Constants() as constants:
        torch.tensor([1.0])
    assert constants.made == 1  # it would notice


def _staged_as_on_a_gpu(model: AnomalyModel, monkeypatch: pytest.MonkeyPatch) -> StagedModel:
    class Device:
        type = "cuda"

    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **__: self)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_, **__: self._apply(torch.clone))
    return StagedModel(model, Device(), 4, torch.float32)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_captured_graphs_give_the_model_s_scores_and_are_faster(tiny_bundle: Bundle) -> None:
    assert tiny_bundle.calibration is not None
    side = tiny_bundle.model.config.preprocess.canvas
    pixels = canvases(5, side)
    seeds = [content_seed(one) for one in pixels]
    staged = detector_of(tiny_bundle, "cuda", staged=8)
    plain = Detector(tiny_bundle.model, tiny_bundle.calibration, "cuda")

    def seconds(detector: Detector) -> float:
        started = time.perf_counter()
        for _ in range(20):
            detector.network(pixels, seeds)
        return time.perf_counter() - started

    found, wanted = staged.network(pixels, seeds), plain.network(pixels, seeds)
    scores = [tiny_bundle.calibration.patch_scores(one) for one in (found, wanted)]
    assert (scores[0] - scores[1]).abs().mean() < 0.02 * scores[1].std()
    seconds(plain)
    assert seconds(staged) < seconds(plain)
    tiny_bundle.model.to("cpu")
