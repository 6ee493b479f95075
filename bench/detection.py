"""Boxes with kinds from a few labelled boards: AP50 of four ways, on boards of other designs.

    python -m bench.detection ../shared/data/pcb --model runs/pcb --boards 5,20 --steps 150

`regions` are those of a model of anomalies, named by a head of kinds fitted on the labelled boards;
`tuned` is the detector on that model's encoder, `scratch` the same with its encoder untrained, both
by the recipe finetune-boxes at the size given here; `small` is a torchvision detector of the same
width on an ImageNet backbone. All learn from the same boards with as many steps. Boards of one
design (`--group`) are labelled or tested on, never both; each way is tested once.
"""

import argparse
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anomaly.bundle import load_bundle
from anomaly.config import from_dict
from bench.region_boxes import Described, describe, named
from bench.small_detector import SmallDetector, train_small
from supervised.boxes import BoxConfig
from supervised.encoder import Encoder
from supervised.tasks import SupervisedConfig, build_network
from training.boxes import Boxes, labelled_boxes
from training.data import listed
from training.finetune.config import FinetuneConfig, load_finetune
from training.finetune.detection import DetectionTraining, box_figures, boxes_of
from training.finetune.examples import Examples, read_examples
from training.finetune.loop import tune
from training.finetune.pipeline import from_nothing, open_encoder, scratch_of
from training.progress import QUIET
from training.samples import Sample

_SMALL_SIZES = ("canvas=320", "head.channels=64", "head.head_width=256", "head.proposals=64")


@dataclass(frozen=True, slots=True)
class Boards:
    """Boards that may be labelled, in the order in which they are, and boards to be tested on."""

    pool: tuple[Sample, ...]
    test: tuple[Sample, ...]


def main() -> None:
    """Print a line for every way and number of boards, then the table."""
    options = _options()
    torch.set_num_threads(options.threads)
    bad = [s for s in listed(options.data).samples if not s.is_normal]
    rows = []
    for seed in options.seeds:
        boards = drawn(bad, options.group, seed, options.test)
        rows += measured(boards, options, seed)
    print(table(rows, options.boards))


def drawn(samples: Sequence[Sample], group: str, seed: int, at_most: int = 0) -> Boards:
    """Split by design: designs at random until half of the boards are tested on.

    `at_most` of the tested boards are looked at, drawn at random (0: all).
    """
    pattern = re.compile(group)

    def design(sample: Sample) -> str:
        match_ = pattern.search(sample.path.name)
        return match_[0] if match_ else sample.path.name

    generator = np.random.default_rng((seed, 7))
    names = sorted({design(sample) for sample in samples})
    tested: set[str] = set()
    for index in generator.permutation(len(names)):
        if sum(design(sample) in tested for sample in samples) >= len(samples) / 2:
            break
        tested.add(names[index])
    test = [sample for sample in samples if design(sample) in tested]
    pool = [sample for sample in samples if design(sample) not in tested]
    pool = [pool[i] for i in generator.permutation(len(pool))]
    test = [test[i] for i in generator.permutation(len(test))]
    return Boards(tuple(pool), tuple(test[: at_most or None]))


def measured(boards: Boards, options: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """Measure every way at every number of labelled boards."""
    if len(boards.pool) < max(options.boards):
        raise SystemExit(f"{len(boards.pool)} boards can be labelled; want {max(options.boards)}")
    truth = [labelled_boxes(sample) for sample in boards.test]
    kinds = tuple(
        sorted({k for s in (*boards.pool, *boards.test) for k in labelled_boxes(s).kinds})
    )
    rows = []
    for way, answer in _ways(boards, options, kinds, seed).items():
        for count in options.boards:
            started = time.monotonic()
            figures = box_figures(truth, answer(boards.pool[:count]))
            seconds = round(time.monotonic() - started, 1)
            rows.append({"way": way, "boards": count, "seed": seed, "seconds": seconds, **figures})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def _ways(
    boards: Boards, options: argparse.Namespace, kinds: tuple[str, ...], seed: int
) -> dict[str, Callable[[Sequence[Sample]], list[Boxes]]]:
    config = recipe(options, seed)
    pretrained = open_encoder(options.model, config.canvas)

    @cache
    def described() -> tuple[list[Described], list[Described]]:
        bundle = load_bundle(options.model, check_golden=False, with_graph=False)
        labelled = boards.pool[: max(options.boards)]
        return describe(bundle, labelled), describe(bundle, boards.test)

    def regions(labelled: Sequence[Sample]) -> list[Boxes]:
        pool, test = described()
        truths = [labelled_boxes(sample) for sample in labelled]
        return named(pool[: len(labelled)], truths, test)

    def tuned(labelled: Sequence[Sample]) -> list[Boxes]:
        encoder = open_encoder(options.model, config.canvas)
        return _tuned(encoder, labelled, boards.test, kinds, config=config)

    def scratch(labelled: Sequence[Sample]) -> list[Boxes]:
        all_alike = scratch_of(config)
        encoder = from_nothing(pretrained, all_alike)
        return _tuned(encoder, labelled, boards.test, kinds, config=all_alike)

    def small(labelled: Sequence[Sample]) -> list[Boxes]:
        return _small(pretrained, labelled, boards.test, kinds, config=config)

    ways = {"regions": regions, "tuned": tuned, "scratch": scratch, "small": small}
    return {name: ways[name] for name in options.ways}


def recipe(options: argparse.Namespace, seed: int) -> FinetuneConfig:
    """Return finetune-boxes at the size of this benchmark: a step count instead of epochs."""
    sizes = (*_SMALL_SIZES, *options.set, f"optimiser.least_steps={options.steps}")
    config = load_finetune("finetune-boxes", (*sizes, 'run.device="cpu"'))
    optimiser = replace(
        config.optimiser,
        epochs=20,
        warmup_epochs=1,
        batch_size=options.batch,
        learning_rate=options.rate,
    )
    return replace(config, optimiser=optimiser, run=replace(config.run, seed=seed, threads=1))


def _tuned(
    encoder: Encoder,
    labelled: Sequence[Sample],
    test: Sequence[Sample],
    kinds: tuple[str, ...],
    *,
    config: FinetuneConfig,
) -> list[Boxes]:
    task = DetectionTraining(config.loss)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        settings = SupervisedConfig("detection", kinds, encoder.config, config.head)
        network = build_network(settings, encoder)
    tune(network, _read(labelled, encoder, kinds, config), task, config, progress=QUIET)
    return _answers(network.answers, _read(test, encoder, kinds, config))


def _small(
    encoder: Encoder,
    labelled: Sequence[Sample],
    test: Sequence[Sample],
    kinds: tuple[str, ...],
    *,
    config: FinetuneConfig,
) -> list[Boxes]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        network = SmallDetector(kinds, from_dict(BoxConfig, config.head, "head."))
    train_small(network, _read(labelled, encoder, kinds, config), config)
    return _answers(network.answers, _read(test, encoder, kinds, config))


def _read(
    samples: Sequence[Sample], encoder: Encoder, kinds: tuple[str, ...], config: FinetuneConfig
) -> Examples:
    return read_examples(
        samples,
        DetectionTraining(config.loss),
        kinds,
        preprocess=encoder.config.preprocess,
        run=config.run,
        progress=QUIET,
    )


def _answers(answers: Callable[..., Any], examples: Examples) -> list[Boxes]:
    with torch.inference_mode():
        return [
            boxes_of(answers(canvas, [placement])[0])
            for canvas, placement in zip(
                examples.batches([[i] for i in range(len(examples))]),
                examples.placements,
                strict=True,
            )
        ]


def table(rows: Sequence[dict[str, Any]], boards: Sequence[int]) -> str:
    """Lay out AP50 with kinds and without: a line for each way, a column for each number."""
    heads = [f"{n} boards, {text}" for n in boards for text in ("AP50", "any kind")]
    lines = ["\n| way | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for way in dict.fromkeys(row["way"] for row in rows):
        cells = []
        for count in boards:
            matching = [r for r in rows if (r["way"], r["boards"]) == (way, count)]
            for key in ("AP50", "AP50_any_kind"):
                values = [row[key] for row in matching]
                spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
                cells.append(f"{np.mean(values):.3f}{spread}" if values else "–")
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(n) for n in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="of anomalies, of the same set")
    parser.add_argument("--boards", type=numbers, default=[5, 20])
    parser.add_argument("--seeds", type=numbers, default=[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--group", default=r"^\d{5}", help="what names of one design share")
    parser.add_argument("--test", type=int, default=0, help="boards to test on at most; 0: all")
    parser.add_argument("--ways", type=lambda text: text.split(","), default=list(_WAYS))
    parser.add_argument("--set", action="append", default=[], help="override of finetune-boxes")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


_WAYS = ("regions", "tuned", "scratch", "small")

if __name__ == "__main__":
    main()
