import json
from pathlib import Path

import numpy as np
import pytest
import torch

from anomaly.preprocess import PreprocessConfig
from anomaly.types import Placement
from supervised.bundle import load_supervised
from supervised.encoder import Encoder
from supervised.tasks import SupervisedConfig, build_network
from supervised.types import Answer, ClassScore
from tests.cli.conftest import invoke
from tests.conftest import png
from tests.supervised.conftest import KINDS, pretrained
from tests.training.finetune.conftest import marked
from training.errors import RecipeError, TrainingDiverged
from training.finetune.batch import LabelledBatch
from training.finetune.classification import ClassificationTraining
from training.finetune.config import FinetuneConfig, LossConfig, TuneConfig, load_finetune
from training.finetune.data import labelled_set
from training.finetune.optimiser import freeze, new_optimiser, set_rate
from training.finetune.pipeline import finetune, open_encoder, scratch_of
from training.progress import QUIET

KINDS_DRAWN = ("good", "dent", "crack")
QUICK = (
    "optimiser.epochs=1",
    "optimiser.warmup_epochs=0",
    "optimiser.least_steps=40",
    "optimiser.batch_size=8",
    'run.device="cpu"',
    "run.threads=1",
)


def quick(recipe: str, *more: str) -> FinetuneConfig:
    return load_finetune(recipe, (*QUICK, *more))


@pytest.mark.parametrize(("way", "rate"), [("linear", 1e-2), ("partial", 3e-3), ("full", 1e-3)])
def test_each_recipe_learns_kinds_and_saves_a_model_with_its_figures(
    way: str, rate: float, kinds_data: Path, mae_folder: Path, tmp_path: Path
) -> None:
    plain = ("loss.mixup=0.0", "loss.cutmix=0.0", "variation.crop=[0.9, 1.0]", "tune.blocks=2")
    still = ("variation.flip_horizontal=false", "tune.drop_path=0.0", "optimiser.least_steps=100")
    config = quick(f"finetune-{way}", *plain, *still, f"optimiser.learning_rate={rate}")
    bundle = finetune(
        labelled_set(kinds_data), mae_folder, tmp_path / "kinds", config, progress=QUIET
    )
    training = bundle.card["training"]
    assert training["test"]["balanced_accuracy"] > 0.6  # chance is a third
    assert training["images"]["train"] == {"crack": 8, "dent": 8, "good": 8}
    assert training["init"] == "mae"
    read = load_supervised(tmp_path / "kinds")
    assert read.config.classes == ("good", "crack", "dent")
    assert read.card == json.loads(json.dumps(bundle.card))
    for name, value in bundle.network.state_dict().items():
        torch.testing.assert_close(read.network.state_dict()[name], value)


def test_the_same_seed_gives_the_same_weights(
    kinds_data: Path, mae_folder: Path, tmp_path: Path
) -> None:
    config = quick("finetune-full", "optimiser.least_steps=4", "optimiser.ema_decay=0.5")
    states = [
        finetune(labelled_set(kinds_data), mae_folder, tmp_path / name, config, progress=QUIET)
        for name in ("first", "second")
    ]
    first, second = (bundle.network.state_dict() for bundle in states)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_canvases_that_do_not_fit_memory_are_read_at_every_step(
    kinds_data: Path, mae_folder: Path, tmp_path: Path
) -> None:
    config = quick("finetune-partial", "optimiser.least_steps=2", "run.cache_limit_gb=0.0")
    bundle = finetune(labelled_set(kinds_data), mae_folder, tmp_path / "m", config, progress=QUIET)
    assert bundle.card["training"]["test"] is not None


def test_what_is_frozen_stays_and_what_is_trained_moves(mae_folder: Path) -> None:
    encoder = open_encoder(mae_folder)
    supervised = SupervisedConfig("classification", KINDS, encoder.config, {"pooling": "token"})
    network = build_network(supervised, encoder)
    freeze(network, TuneConfig(train="last", blocks=1))
    moving = {name for name, p in network.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in moving} == {"encoder", "head"}
    assert all(name.startswith(("encoder.blocks.2", "encoder.norm", "head")) for name in moving)


def test_layers_learn_by_the_official_scale_and_only_matrices_decay() -> None:
    encoder = Encoder.pretrained(pretrained(class_token=True))
    network = build_network(SupervisedConfig("classification", KINDS, encoder.config), encoder)
    config = load_finetune("finetune-full")
    optimiser = new_optimiser(network, TuneConfig(layer_decay=0.5), config.optimiser)
    groups = {
        id(p): (group["lr_scale"], group["weight_decay"])
        for group in optimiser.param_groups
        for p in group["params"]
    }
    scales = {name: groups[id(p)] for name, p in network.named_parameters() if id(p) in groups}
    assert scales["head.weight"] == (1.0, 0.05)
    assert scales["head.bias"] == (1.0, 0.0)
    # As in the official code: depth + 1 layers, the last block half as fast as the head.
    assert [scales[f"encoder.blocks.{i}.mlp.fc1.weight"][0] for i in range(3)] == [
        1 / 8,
        1 / 4,
        1 / 2,
    ]
    assert scales["encoder.embed.weight"] == (1 / 16, 0.05)
    assert scales["encoder.position"] == (1 / 16, 0.0)
    assert scales["encoder.class_token"] == (1 / 16, 0.0)
    rate = set_rate(optimiser, 0, 100, config.optimiser)
    assert rate == pytest.approx(config.optimiser.learning_rate / 5)
    assert optimiser.param_groups[0]["lr"] == pytest.approx(
        rate * optimiser.param_groups[0]["lr_scale"]
    )


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_every_optimiser_takes_a_step(name: str) -> None:
    encoder = Encoder.pretrained(pretrained())
    head = {"batch_norm": True}
    network = build_network(
        SupervisedConfig("classification", KINDS, encoder.config, head), encoder
    )
    config = load_finetune("finetune-linear", [f"optimiser.name={name}"])
    freeze(network, config.tune)
    optimiser = new_optimiser(network, config.tune, config.optimiser)
    before = network.head.weight.detach().clone()
    network(torch.rand(4, 3, 64, 64)).square().sum().backward()
    optimiser.step()
    assert not torch.equal(before, network.head.weight)
    assert encoder.blocks[0].mlp.fc1.weight.grad is None


def loss_of(config: LossConfig, truths: list[int], generator: int = 0) -> float:
    torch.manual_seed(0)
    encoder = Encoder.pretrained(pretrained())
    network = build_network(SupervisedConfig("classification", KINDS, encoder.config), encoder)
    torch.nn.init.normal_(network.head.weight)
    task = ClassificationTraining(config)
    task.prepare(network, truths)
    pixels = torch.rand(len(truths), 3, 64, 64, generator=torch.Generator().manual_seed(1))
    moves = torch.eye(2, 3).repeat(len(truths), 1, 1)
    batch = LabelledBatch(pixels, truths, moves, np.random.default_rng(generator))
    return float(task.loss(network.train(), batch).detach())


def test_mixing_follows_the_steps_seed_and_leaves_the_global_one() -> None:
    mixed = LossConfig()
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = loss_of(mixed, [0, 1, 2, 2], 3), loss_of(mixed, [0, 1, 2, 2], 3)
    assert first == second
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    assert first != loss_of(mixed, [0, 1, 2, 2], 4)
    plain = LossConfig(mixup=0.0, cutmix=0.0)
    assert loss_of(plain, [0, 1, 2, 2], 3) == loss_of(plain, [0, 1, 2, 2], 4)


def test_rare_kinds_weigh_as_much_as_frequent_ones() -> None:
    plain = LossConfig(smoothing=0.0, mixup=0.0, cutmix=0.0, balance=False)
    balanced = LossConfig(smoothing=0.0, mixup=0.0, cutmix=0.0)
    even, uneven = [0, 1, 2, 0, 1, 2], [0, 0, 0, 0, 1, 2]
    assert loss_of(plain, even) == pytest.approx(loss_of(balanced, even))
    assert loss_of(plain, uneven) != pytest.approx(loss_of(balanced, uneven))


def test_figures_are_those_of_the_confusion_matrix() -> None:
    place = Placement.filling(64)
    guesses = ("good", "good", "crack", "good")
    answers = [Answer(place, (ClassScore(kind, 0.9),)) for kind in guesses]
    figures = ClassificationTraining(LossConfig()).figures(answers, [0, 0, 1, 1], KINDS)
    assert figures["recall"] == {"good": 1.0, "crack": 0.5}  # nothing of scratch was tested
    assert figures["balanced_accuracy"] == 0.75
    assert figures["accuracy"] == 0.75
    assert figures["confusion"] == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]


def test_training_from_nothing_is_the_full_recipe_at_one_rate() -> None:
    full = quick("finetune-full", "run.seed=3")
    scratch = scratch_of(full)
    assert (scratch.tune.train, scratch.tune.layer_decay) == ("all", 1.0)
    assert scratch.optimiser == full.optimiser
    probed = scratch_of(quick("finetune-linear", "run.seed=3", "optimiser.least_steps=900"))
    assert (probed.tune.train, probed.optimiser.name) == ("all", "adamw")
    assert (probed.optimiser.least_steps, probed.run.seed) == (900, 3)


def test_a_loss_that_is_no_number_ends_the_run_and_writes_nothing(
    kinds_data: Path, mae_folder: Path, tmp_path: Path
) -> None:
    config = quick("finetune-full", "optimiser.learning_rate=1e30", "optimiser.name=sgd")
    with pytest.raises(TrainingDiverged, match="learning_rate"):
        finetune(labelled_set(kinds_data), mae_folder, tmp_path / "m", config, progress=QUIET)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("canvas=50", "multiple of 16"),
        ("head.pooling=sum", "head.pooling"),
        ("head.depth=2", "unknown key 'head.depth'"),
    ],
)
def test_a_recipe_that_does_not_fit_the_encoder_is_refused(
    kinds_data: Path, mae_folder: Path, tmp_path: Path, override: str, message: str
) -> None:
    config = quick("finetune-full", override)
    with pytest.raises(RecipeError, match=message):
        finetune(labelled_set(kinds_data), mae_folder, tmp_path / "m", config, progress=QUIET)


def test_the_command_compares_with_scratch_and_the_model_answers(
    kinds_data: Path, mae_folder: Path, tmp_path: Path
) -> None:
    words = [word for override in QUICK for word in ("--set", override)]
    few = ["--set", "optimiser.least_steps=3"]
    out = tmp_path / "kinds"
    recipe = ["--recipe", "finetune-full", *words, *few, "--beside-scratch"]
    arguments = [kinds_data, "--init", mae_folder, "--out", out, *recipe]
    result = invoke("finetune", *arguments)
    assert result.exit_code == 0, result.output
    for text in ("tuned", "scratch", "balanced accuracy", "recall of dent", "is / was taken for"):
        assert text in result.output
    card = load_supervised(out).card["training"]
    assert card["beside"]["scratch"]["recipe"]["tune"]["train"] == "all"
    scored = invoke("score", out, kinds_data / "test/dent", "--json")
    rows = [json.loads(line) for line in scored.output.splitlines() if line.startswith("{")]
    assert (scored.exit_code, len(rows)) == (0, 4)
    assert {row["kind"] for row in rows[0]["classes"]} == set(KINDS_DRAWN)
    said = invoke("score", out, kinds_data / "test/dent/000.png", mae_folder / "manifest.json")
    assert said.exit_code == 2
    assert "p=" in said.output
    assert "ERROR" in said.output
    assert invoke("score", out, kinds_data, "--heatmaps", tmp_path / "maps").exit_code == 2
    again = invoke("finetune", kinds_data, "--init", mae_folder, "--out", kinds_data, *words)
    assert getattr(again.exception, "code", None) == "output_refused"


def test_images_of_16_bits_are_placed_as_anywhere(mae_folder: Path, tmp_path: Path) -> None:
    for kind in ("dent", "crack"):
        for split, count in (("train", 3), ("test", 2)):
            folder = tmp_path / "data" / split / kind
            folder.mkdir(parents=True)
            for index in range(count):
                deep = marked(kind, 10 * count + index).astype(np.uint16) * 257
                (folder / f"{index}.png").write_bytes(png(deep))
    config = quick("finetune-partial", "optimiser.least_steps=2")
    bundle = finetune(
        labelled_set(tmp_path / "data"), mae_folder, tmp_path / "m", config, progress=QUIET
    )
    assert bundle.config.encoder.preprocess == PreprocessConfig(canvas=64)
