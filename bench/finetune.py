"""Does pretraining pay: probe, partial and full fine-tuning beside training from nothing.

    python -m bench.finetune --flanges flanges --tiles ../data/magnetic_tile --json finetune.json

Two sets: flanges drawn on the spot, and magnetic tiles, whose kinds are split by tile (up to six
exposures of one lie in the folders). On each an autoencoder is pretrained on good parts without
labels (or `--init` names a model), then so many labelled images of each kind train a classifier in
four ways; the fourth has the same network and the same steps with weights drawn anew. Balanced
accuracy on images of other parts, mean and spread over seeds; a seed draws the split, the labelled
images and the weights. Nothing is chosen by these figures.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from anomaly.bundle import Bundle, load_bundle, new_version, save_bundle
from bench.sessions import with_tiles
from supervised.encoder import Encoder
from training.config import load_recipe
from training.data import listed
from training.finetune.config import FinetuneConfig, load_finetune
from training.finetune.data import LabelledSet, drawn
from training.finetune.pipeline import from_nothing, gather, scratch_of, train_network
from training.groups import with_copies_together
from training.loop import train
from training.progress import QUIET
from training.samples import Dataset, Sample
from training.synthetic import PartsConfig, write_parts

WAYS = ("linear", "partial", "full", "scratch")
_PRETRAINING = (
    'model.target.kind="pixels"',
    "model.target.norm_patches=true",
    "augment.fresh=false",  # of pixels, decoded once: a second of training costs a second
    "augment.crop=[1.0, 1.0]",
    "augment.copies=2",
    "augment.shift=0.1",
    "objective.cosine_weight=0.0",
    "objective.l2_weight=1.0",
    "optimiser.batch_size=32",
    "optimiser.warmup_steps=50",
    "optimiser.ema_decay=0.99",
    "run.tensorboard=false",
    'run.export="never"',
)


def main() -> None:
    """Print a table for each set, and write the figures where that is asked."""
    options = _options()
    rows = []
    with TemporaryDirectory() as folder:
        for dataset in _sets(options):
            model = options.init or _pretrained(dataset, options, Path(folder))
            for seed in range(options.seeds):
                rows += _row_of_seed(dataset, model, seed, options)
            print(table([row for row in rows if row["set"] == dataset.root.name]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def few_labels(samples: Sequence[Sample], shots: int, seed: int, root: Path) -> LabelledSet:
    """Split labelled images by part, and leave so many of each kind to train on."""
    train_all, test = drawn(with_copies_together(samples), seed)
    generator = np.random.default_rng((seed, 5))
    few: list[Sample] = []
    for kind in sorted({sample.label for sample in train_all}):
        of_kind = [sample for sample in train_all if sample.label == kind]
        order = generator.permutation(len(of_kind))[:shots]
        few += [of_kind[i] for i in sorted(order)]
    return LabelledSet(root, tuple(few), tuple(test))


def recipes(options: argparse.Namespace, seed: int) -> dict[str, FinetuneConfig]:
    """Return the recipes by way, with the same steps and without what needs many epochs."""
    common = [
        "optimiser.epochs=10",
        f"optimiser.least_steps={options.steps}",
        "optimiser.batch_size=16",
        "optimiser.warmup_epochs=1",
        f"run.seed={seed}",
        'run.device="cpu"',
        "run.threads=1",
    ]
    short = ["loss.mixup=0.0", "loss.cutmix=0.0", "variation.crop=[0.7, 1.0]"]
    extra = {"linear": [], "partial": ["tune.blocks=2"], "full": short}
    tuned = {way: load_finetune(f"finetune-{way}", common + extra[way]) for way in extra}
    return tuned | {"scratch": scratch_of(tuned["full"])}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out mean and spread over seeds, by way."""
    lines = [f"{'set':<16}{'way':<10}{'balanced accuracy':>20}{'seconds':>10}"]
    for way in WAYS:
        values = [row["balanced_accuracy"] for row in rows if row["way"] == way]
        seconds = np.mean([row["seconds"] for row in rows if row["way"] == way])
        text = f"{np.mean(values):.3f} ± {np.std(values):.3f}"
        lines.append(f"{rows[0]['set']:<16}{way:<10}{text:>20}{seconds:>10.0f}")
    return "\n".join(lines)


def _row_of_seed(
    dataset: Dataset, model: Path, seed: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    labelled = few_labels(dataset.select("test"), options.shots, seed, dataset.root)
    bundle = load_bundle(model, check_golden=False, with_graph=False)
    rows, material = [], None
    for way, config in recipes(options, seed).items():
        encoder = Encoder.pretrained(bundle.model)
        material = material or gather(labelled, encoder, config, QUIET)
        if way == "scratch":
            encoder = from_nothing(encoder, config)
        started = time.monotonic()
        tuned = train_network(encoder, material, config, QUIET)
        assert tuned.figures is not None
        figures = {"set": dataset.root.name, "seed": seed, "way": way, **tuned.figures}
        rows.append(figures | {"seconds": time.monotonic() - started, "loss": tuned.loss})
        print(
            f"{dataset.root.name} {seed} {way} {tuned.figures['balanced_accuracy']:.3f}", flush=True
        )
    return rows


def _sets(options: argparse.Namespace) -> Iterator[Dataset]:
    if options.flanges is not None:
        if not options.flanges.exists():
            each = round(options.shots / 0.7) + options.tests
            config = PartsConfig(options.goods, 0, each, each, (240, 320))
            for _ in write_parts(options.flanges, config, seed=options.drawing):
                pass
        yield listed(options.flanges)
    if options.tiles is not None:
        yield with_tiles(listed(options.tiles))


def _pretrained(dataset: Dataset, options: argparse.Namespace, folder: Path) -> Path:
    settings = [
        *_PRETRAINING,
        f"model.preprocess.canvas={options.canvas}",
        f"model.target.patch={options.patch}",
        f"model.mae.window={options.canvas // options.patch}",
        f"model.mae.width={options.width}",
        f"model.mae.heads={options.width // 32}",
        f"optimiser.steps={options.pretrain_steps}",
        "run.workers=1",
        'run.device="cpu"',
    ]
    config = load_recipe("pretrain", settings)
    config = replace(config, model=replace(config.model, scoring=_masked_only(config.model)))
    started = time.monotonic()
    name = dataset.root.name
    model, card = train(dataset.normal("train"), config, folder / f"{name}.run", progress=QUIET)
    print(
        f"{name}: pretrained in {time.monotonic() - started:.0f} s, loss {card['final_loss']:.3f}"
    )
    save_bundle(
        Bundle(name, model, None, {"training": card}), folder / f"{name}-mae", new_version()
    )
    return folder / f"{name}-mae"


def _masked_only(model: Any) -> Any:
    return replace(model.scoring, families=("masked",), errors=("l2",))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tiles", type=Path, help="Folder of magnetic_tile.")
    parser.add_argument("--flanges", type=Path, help="Folder of flanges; drawn if it is new.")
    parser.add_argument("--init", type=Path, help="Pretrained model instead of one of each set.")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--shots", type=int, default=20, help="Labelled images of each kind.")
    parser.add_argument("--tests", type=int, default=20, help="More drawn images of each kind.")
    parser.add_argument("--goods", type=int, default=300, help="Drawn good parts to pretrain on.")
    parser.add_argument("--drawing", type=int, default=7, help="Seed of the drawn parts.")
    parser.add_argument("--steps", type=int, default=150, help="Of each classifier.")
    parser.add_argument("--pretrain-steps", type=int, default=600)
    parser.add_argument("--canvas", type=int, default=96)
    parser.add_argument("--patch", type=int, default=12)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
