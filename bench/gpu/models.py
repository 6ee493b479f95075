"""Whole models: trained, calibrated and evaluated."""

import contextlib
import cProfile
import io
import pstats
import time
from collections.abc import Iterator
from pathlib import Path

from bench.gpu.check import Check, Rows


def demo(check: Check) -> Rows:
    """Train, calibrate and evaluate on drawn parts, as `maskline demo` does."""
    from training.config import load_recipe
    from training.data import open_dataset
    from training.pipeline import evaluate_model, train_model
    from training.progress import QUIET

    parts = open_dataset(check.parts)
    short = ("optimiser.steps=20", "evidence.steps=20") if check.small else ()
    config = load_recipe("demo", ["run.export=never", *short])
    started = time.monotonic()
    with _profiled(check.folder / "demo.profile"):
        bundle = train_model(parts, check.model, config, progress=QUIET)
    whole_s = time.monotonic() - started
    figures, _ = evaluate_model(check.model, parts, progress=QUIET)
    card = bundle.card["training"]
    yield {
        "recipe": "demo",
        "s to a calibrated model": whole_s,
        "s of training": card["seconds"],
        "image AUROC": figures["image_AUROC"],
        "pixel AUROC": figures["pixel_AUROC"],
        "recall": figures["recall"],
        "false alarms": figures["realised_false_alarm_rate"],
        "ms an image, evaluated": figures["ms_per_image"],
    }


@contextlib.contextmanager
def _profiled(path: Path) -> Iterator[None]:
    """Write which functions the time went into."""
    with cProfile.Profile() as profile:
        yield
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("cumulative").print_stats(70)
    path.write_text(text.getvalue(), encoding="utf-8")


def best(check: Check) -> Rows:
    """Train the recipe for a GPU, shortened, on a set that is there."""
    from training.config import load_recipe
    from training.data import open_dataset
    from training.pipeline import evaluate_model, train_model
    from training.progress import QUIET

    if check.data is None:
        raise SystemExit("give a set with --data, or leave `best` out")
    for recipe, short in (
        ("default", ["optimiser.steps=10"] if check.small else []),
        ("best", ["optimiser.steps=10" if check.small else "optimiser.steps=1500"]),
    ):
        if check.small:
            short += ["plan.canvases=[]", "evidence.steps=10", "evidence.patches=2000"]
        config = load_recipe(recipe, ["run.export=never", "run.workers=8", *short])
        out = check.folder / f"work/models/{recipe}"
        started = time.monotonic()
        bundle = train_model(open_dataset(check.data), out, config, progress=QUIET)
        whole_s = time.monotonic() - started
        figures, _ = evaluate_model(out, open_dataset(check.data), progress=QUIET)
        yield {
            "recipe": f"{recipe}, {config.optimiser.steps} steps",
            "set": check.data.name,
            "canvas": bundle.model.config.preprocess.canvas,
            "s to a calibrated model": whole_s,
            "image AUROC": figures["image_AUROC"],
            "recall at 5 %": figures["recall_at_5_percent"],
            "false alarms": figures["realised_false_alarm_rate_at_5_percent"],
            "ms an image": figures["ms_per_image"],
        }
