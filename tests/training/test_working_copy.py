import pytest
import torch

from anomaly.device import has_matrix_units
from anomaly.mae import MaeConfig, MaskedAutoencoder
from anomaly.types import Grid
from tests.conftest import TINY
from training import trainer as trainer_module
from training.config import TrainConfig, load_recipe
from training.loop import new_model, take_step
from training.trainer import Trainer, new_trainer, precision_of
from training.working_copy import WorkingCopy
from training.world import ALONE, World

CPU = torch.device("cpu")


def network(decoder: str = "query", *, class_token: bool = False) -> MaskedAutoencoder:
    torch.manual_seed(0)
    config = MaeConfig(
        width=32,
        depth=2,
        heads=2,
        decoder="classic" if decoder == "classic" else "query",
        decoder_width=32,
        decoder_heads=2,
        class_token=class_token,
    )
    return MaskedAutoencoder(config, Grid(4, 4, 8), 24)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    order = torch.stack([torch.randperm(16) for _ in range(6)])
    return torch.randn(6, 16, 24), order[:, :7], order[:, 7:12]


@pytest.mark.parametrize(("decoder", "class_token"), [("query", False), ("classic", True)])
def test_it_predicts_and_learns_as_its_masters_do(decoder: str, *, class_token: bool) -> None:
    masters = network(decoder, class_token=class_token)
    tokens, visible, queries = inputs()
    wanted = masters(tokens, visible, queries)
    wanted.square().mean().backward()
    gradients = [p.grad.clone() for p in masters.parameters() if p.grad is not None]
    masters.zero_grad(set_to_none=True)
    working = WorkingCopy(masters)
    working.refresh()
    predicted = working.network(tokens.bfloat16(), visible, queries)
    assert predicted.dtype == torch.bfloat16
    torch.testing.assert_close(predicted.float(), wanted, atol=0.05, rtol=0.05)
    predicted.float().square().mean().backward()
    working.hand_over()
    found = [p.grad for p in masters.parameters() if p.grad is not None]
    assert {gradient.dtype for gradient in found} == {torch.float32}
    for own, other in zip(found, gradients, strict=True):
        likeness = torch.cosine_similarity(own.flatten(), other.flatten(), dim=0)
        assert float(likeness) > 0.98


def test_it_takes_the_masters_values_and_adds_to_their_gradients() -> None:
    masters = network()
    working = WorkingCopy(masters)
    with torch.no_grad():
        masters.embed.weight.fill_(0.5)
    working.refresh()
    weight = working.network.get_submodule("embed").get_parameter("weight")
    assert bool((weight == 0.5).all())
    tokens, visible, queries = inputs()
    for _ in range(2):
        working.network(tokens.bfloat16(), visible, queries).sum().backward()
        once = weight.grad
        assert once is not None
        working.hand_over()
        assert all(parameter.grad is None for parameter in working.network.parameters())
    assert masters.embed.weight.grad is not None
    torch.testing.assert_close(masters.embed.weight.grad, 2 * once.float())


@pytest.mark.parametrize("switch", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_units_that_are_switched_off_are_not_used(
    monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    units = {"amx_bf16": True, "amx_tile": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    assert has_matrix_units()
    monkeypatch.setenv(switch, "AVX512_CORE")
    assert not has_matrix_units()
    monkeypatch.delenv(switch)
    units["amx_bf16"] = False
    assert not has_matrix_units()


@pytest.fixture
def tiny() -> TrainConfig:
    return load_recipe("default", [*TINY, "run.precision=auto"])


@pytest.mark.parametrize("has_units", [True, False])
def test_the_processor_decides_the_precision(
    monkeypatch: pytest.MonkeyPatch, tiny: TrainConfig, *, has_units: bool
) -> None:
    monkeypatch.setattr(trainer_module, "has_matrix_units", lambda: has_units)
    expected = torch.bfloat16 if has_units else torch.float32
    assert precision_of(tiny, CPU) == expected
    assert precision_of(tiny, CPU, World(0, 2)) == torch.float32  # processes exchange gradients
    assert (started(tiny).working is not None) == has_units
    exact = load_recipe("default", [*TINY, "run.precision=fp32"])
    assert precision_of(exact, CPU) == torch.float32
    assert started(exact).working is None


def test_a_run_in_bfloat16_learns_as_one_in_float32(tiny: TrainConfig) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        trainer = started(load_recipe("default", [*TINY, f"run.precision={precision}"]))
        model = trainer.model
        generator = torch.Generator().manual_seed(1)
        shape = (16, model.window.length, model.target.token_dim)
        tokens = torch.randn(shape, generator=generator)
        losses[precision] = [float(take_step(trainer, step, tokens)) for step in range(30)]
        assert {p.dtype for p in model.mae.parameters()} == {torch.float32}
    assert losses["fp32"][-1] < losses["fp32"][0]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_a_batch_in_parts_has_the_gradients_of_the_whole() -> None:
    norms = []
    for at_once in (0, 4):
        trainer = started(
            load_recipe("default", [*TINY, "run.precision=bf16", f"run.at_once={at_once}"])
        )
        model = trainer.model
        shape = (16, model.window.length, model.target.token_dim)
        tokens = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        take_step(trainer, 0, tokens)
        gradients = [p.grad for p in model.mae.parameters() if p.grad is not None]
        norms.append(torch.stack([gradient.norm() for gradient in gradients]))
    torch.testing.assert_close(norms[0], norms[1], rtol=0.05, atol=1e-3)


def started(config: TrainConfig) -> Trainer:
    model = new_model(config)
    model.mae.train()
    return new_trainer(config, model, NotAsked(), ALONE)


class NotAsked:
    """A source of tokens for steps that are given theirs."""

    def steps(self, first: int) -> object:
        raise AssertionError

    def names(self, step: int) -> list[str]:
        raise AssertionError
