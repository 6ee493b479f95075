"""Fine-tune, test, save: from a labelled set and a pretrained encoder to a model folder."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from anomaly.bundle import load_bundle, new_version
from anomaly.config import to_dict
from anomaly.device import choose_device
from anomaly.errors import ConfigError
from anomaly.manifest import MANIFEST
from supervised.bundle import SupervisedBundle, load_supervised, save_supervised
from supervised.encoder import Encoder
from supervised.graph import export_graph
from supervised.network import SupervisedNetwork
from supervised.tasks import SupervisedConfig, build_network
from training.errors import RecipeError
from training.finetune.config import FinetuneConfig, load_finetune
from training.finetune.data import LabelledSet
from training.finetune.examples import Examples, read_examples
from training.finetune.loop import answers_about, precision_of, tune
from training.finetune.official import import_classifier, read_encoder
from training.finetune.tasks import TRAINING, TrainingTask
from training.progress import SHOWN, Progress

_FULL = "finetune-full"


@dataclass(frozen=True, slots=True)
class Tuned:
    """A trained network and its figures on the test split; None where there is no test image."""

    network: SupervisedNetwork
    figures: dict[str, Any] | None
    loss: float
    seconds: float


@dataclass(frozen=True, slots=True)
class _Material:
    """What trainings on the same set share."""

    task: TrainingTask
    classes: tuple[str, ...]
    train: Examples
    test: Examples


def finetune(
    labelled: LabelledSet,
    init: Path,
    out: Path,
    config: FinetuneConfig,
    *,
    beside_scratch: bool = False,
    progress: Progress = SHOWN,
) -> SupervisedBundle:
    """Train a model of labels from a pretrained encoder and save it to `out`.

    `init` is a model folder or a checkpoint of public weights. `beside_scratch` trains the same
    network from nothing as well, by `scratch_of`, and puts its figures beside in the card.
    """
    encoder = open_encoder(init, config.canvas)
    material = gather(labelled, encoder, config, progress)
    tuned = train_network(encoder, material, config, progress)
    card = _card(labelled, config, tuned) | {"init": init.name}
    if beside_scratch:
        scratch = scratch_of(config)
        beside = train_network(from_nothing(encoder, scratch), material, scratch, progress)
        card["beside"] = {"scratch": _said_of(scratch, beside)}
    supervised = SupervisedConfig(config.task, material.classes, encoder.config, config.head)
    network = tuned.network.cpu()
    bundle = SupervisedBundle(out.absolute().name, supervised, network, {"training": card})
    return save_supervised(bundle, out, new_version())


def open_encoder(init: Path, canvas: int = 0) -> Encoder:
    """Read a pretrained encoder: of a model folder, or a checkpoint of public weights.

    Raises `ModelError`, or `WeightsError`; `RecipeError` where the canvas does not fit it.
    """
    if (init / MANIFEST).exists():
        encoder = Encoder.pretrained(load_bundle(init, check_golden=False, with_graph=False).model)
    else:
        encoder = read_encoder(init)
    try:
        return encoder.on(canvas or encoder.config.preprocess.canvas)
    except ConfigError as error:
        raise RecipeError(f"canvas: {error}") from error


def gather(
    labelled: LabelledSet, encoder: Encoder, config: FinetuneConfig, progress: Progress
) -> _Material:
    """Read both splits on the encoder's canvas."""
    task = TRAINING[config.task](config.loss)
    classes = task.classes(labelled.train)
    train, test = (
        read_examples(
            samples,
            task,
            classes,
            preprocess=encoder.config.preprocess,
            run=config.run,
            progress=progress,
        )
        for samples in (labelled.train, labelled.test)
    )
    return _Material(task, classes, train, test)


def train_network(
    encoder: Encoder, material: _Material, config: FinetuneConfig, progress: Progress
) -> Tuned:
    """Train a head on an encoder, and as much of that as the recipe says; then test it."""
    started = time.monotonic()
    supervised = SupervisedConfig(config.task, material.classes, encoder.config, config.head)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        try:
            network = build_network(supervised, encoder)
        except ConfigError as error:
            raise RecipeError(str(error)) from error
    network.to(choose_device(config.run.device))
    task = TRAINING[config.task](config.loss)
    loss = tune(network, material.train, task, config, progress=progress)
    figures = None
    if len(material.test):
        answers = answers_about(network, material.test, progress=progress)
        figures = task.figures(answers, material.test.truths, material.classes)
    return Tuned(network, figures, loss, time.monotonic() - started)


def scratch_of(config: FinetuneConfig) -> FinetuneConfig:
    """Return how the same network is trained from nothing: all of it, at one rate.

    A recipe that trains less than all says nothing of that: the full one's takes its place, with
    no fewer steps. Data, canvas and seed are the same, and so is the head where the full recipe,
    which is of classification, has none for the task.
    """
    if config.tune.train == "all":
        return replace(config, tune=replace(config.tune, layer_decay=1.0))
    full = load_finetune(_FULL)
    epochs = max(config.optimiser.epochs, full.optimiser.epochs)
    least = max(config.optimiser.least_steps, full.optimiser.least_steps)
    return replace(
        full,
        task=config.task,
        canvas=config.canvas,
        head=full.head if config.task == full.task else config.head,
        tune=replace(full.tune, layer_decay=1.0),
        optimiser=replace(full.optimiser, epochs=epochs, least_steps=least),
        run=config.run,
    )


def from_nothing(encoder: Encoder, config: FinetuneConfig) -> Encoder:
    """Return the encoder's form with weights drawn by the recipe's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        return encoder.untrained()


def export_folder(model: Path) -> SupervisedBundle:
    """Add an ONNX graph to the model in a folder, in place, under a new version."""
    bundle = load_supervised(model)
    graph = export_graph(bundle.network)
    return save_supervised(replace(bundle, graph=graph), model, new_version())


def import_head(checkpoint: Path, out: Path) -> SupervisedBundle:
    """Make a model folder of a public classifier's weights; raises `WeightsError`."""
    bundle = replace(import_classifier(checkpoint), name=out.absolute().name)
    card = {"imported": {"weights": checkpoint.name, "maskline": version("maskline")}}
    return save_supervised(replace(bundle, card=card), out, new_version())


def _card(labelled: LabelledSet, config: FinetuneConfig, tuned: Tuned) -> dict[str, Any]:
    counts = {
        name: dict(sorted(Counter(sample.label for sample in samples).items()))
        for name, samples in (("train", labelled.train), ("test", labelled.test))
    }
    return {
        "data": labelled.root.name,
        "images": counts,
        "sessions": len({sample.session for sample in labelled.train}),
        "notes": list(labelled.notes),
        "maskline": version("maskline"),
        **_said_of(config, tuned),
    }


def _said_of(config: FinetuneConfig, tuned: Tuned) -> Mapping[str, Any]:
    device = tuned.network.encoder.position.device
    return {
        "recipe": to_dict(config),
        "device": str(device),
        "precision": str(precision_of(config, device)),
        "final_loss": tuned.loss,
        "seconds": round(tuned.seconds, 1),
        "test": tuned.figures,
    }
