"""What a GPU does with Maskline, in one command of a few minutes and without a network.

    python -m bench.gpu gpu-check --data ../shared/data/magnetic_tile

Sections, each by itself: one that fails says so, and the others go on. `gpu.json` and `gpu.md` in
the given folder are rewritten after each row, so that an interrupted run leaves what it had. Ends
with 1 where a section failed. Without a GPU everything runs on the CPU in small sizes: a rehearsal,
no measurement.
"""

import argparse
import asyncio
import contextlib
import cProfile
import io
import json
import os
import platform
import pstats
import re
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from training.decoding import STRICT
from training.progress import QUIET

_ROOT = Path(__file__).parent.parent
_TEST_FILES = (
    "tests/anomaly/test_detector.py",
    "tests/anomaly/test_cuda_graphs.py",
    "tests/training/test_loop.py",
    "tests/test_gpu.py",
)
_AGREES = 0.25  # of the good parts' spread: captured graphs compute in bfloat16
_VIT_B = (
    "model.mae.width=768",
    "model.mae.depth=12",
    "model.mae.heads=12",
    "model.mae.decoder_width=512",
    "model.mae.decoder_depth=4",
    "model.mae.decoder_heads=16",
)
Row = dict[str, Any]
Rows = Iterator[Row]


@dataclass(slots=True)
class Check:
    """What sections share: where they compute, their findings, and what later sections use."""

    folder: Path
    model: Path
    data: Path | None
    device: Any
    small: bool  # a rehearsal
    found: dict[str, Any] = field(default_factory=dict)
    peak: float = 0.0  # bf16 operations a second

    @property
    def parts(self) -> Path:
        """Drawn parts in MVTec layout; drawn when they are first asked for."""
        from training.synthetic import PartsConfig, write_parts

        folder = self.folder / "work/parts"
        if not folder.is_dir():
            for _ in write_parts(folder, PartsConfig(120, 60, 40, 8), seed=0):
                pass
        return folder


def main() -> None:
    """Run the sections and write what they found."""
    options = _options()
    if absent := missing_packages():
        print(f"not installed here: {' '.join(absent)}", flush=True)
    import torch

    from anomaly.device import choose_device

    device = choose_device("auto")
    small = device.type == "cpu"
    folder = options.out.absolute()
    model = options.model or folder / "work/models/flange"
    check = Check(folder, model, options.data, device, small)
    check.folder.mkdir(parents=True, exist_ok=True)
    check.found["machine"] = {"rows": [_machine(torch, device)]}
    began = time.monotonic()
    for name in options.only:
        if time.monotonic() - began > options.seconds:
            check.found[name] = {"skipped": f"{options.seconds} s had passed"}
        else:
            run(name, check)
        write(check)
    print((check.folder / "gpu.md").read_text(encoding="utf-8"))
    sys.exit(any("error" in section for section in check.found.values()))


def run(name: str, check: Check) -> None:
    """Run one section and write each row as it comes; an error that it raises is its result."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    started = time.monotonic()
    section: dict[str, Any] = {"rows": []}
    check.found[name] = section
    try:
        for row in SECTIONS[name](check):
            section["rows"].append(row)
            section["seconds"] = round(time.monotonic() - started, 1)
            write(check)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the next section says something else
        print(traceback.format_exc(), file=sys.stderr, flush=True)
        section["error"] = f"{type(error).__name__}: {error}"[:2000]
    section["seconds"] = round(time.monotonic() - started, 1)


def missing_packages() -> list[str]:
    """Return the project's dependencies that this environment lacks."""
    import tomllib

    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    absent = []
    for line in [*project["dependencies"], "aiohttp", "pytest", "pytest-timeout", "hypothesis"]:
        name = re.split(r"[<>=!;\[ ]", line, maxsplit=1)[0]
        try:
            version(name)
        except PackageNotFoundError:
            absent.append(name)
    return absent


def _machine(torch: Any, device: Any) -> dict[str, Any]:
    from anomaly.device import usable_cores

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU: a rehearsal"
    return {
        "device": name,
        "cores": usable_cores(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def limits(check: Check) -> Rows:
    """Measure the largest products and copies: all other rates are shares of these."""
    import torch

    from training.meter import finish, matrix_rate

    side = 1024 if check.small else 8192
    for dtype in (torch.bfloat16, torch.float32):
        rate = matrix_rate(check.device, dtype, side)
        check.peak = max(check.peak, rate)
        yield {"limit": f"products of {side}² in {dtype}", "TFLOP/s": rate / 1e12}
    source = torch.empty(2**20 if check.small else 2**29, device=check.device)
    target = torch.empty_like(source)
    target.copy_(source)
    finish(check.device)
    started = time.perf_counter()
    for _ in range(10):
        target.copy_(source)
    finish(check.device)
    moved = 10 * 2 * source.numel() * source.element_size()
    yield {"limit": "copies", "TB/s": moved / (time.perf_counter() - started) / 1e12}


def gpu_tests(check: Check) -> Rows:
    """Run the tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    # Other versions of libraries may be installed there.
    command += ["-o", "filterwarnings=default"]
    done = subprocess.run(
        [*command, *_TEST_FILES],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    (check.folder / "tests.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode:
        raise SystemExit(f"{last}; see tests.log")
    yield {"tests": last}


def demo(check: Check) -> Rows:
    """Train, calibrate and evaluate on drawn parts, as `maskline demo` does."""
    from training.config import load_recipe
    from training.data import open_dataset
    from training.pipeline import evaluate_model, train_model

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


def parity(check: Check) -> Rows:
    """Score the same parts on the CPU and on the device, plainly and by captured graphs."""
    import numpy as np
    from sklearn.metrics import roc_auc_score

    from anomaly.bundle import load_bundle
    from anomaly.detector import Detector
    from anomaly.runtime import detector_of
    from training.data import open_dataset

    bundle = load_bundle(check.model)
    assert bundle.calibration is not None
    test = open_dataset(check.parts).select("test")[:: 8 if check.small else 1]
    read = list(STRICT.on(bundle.model.config.preprocess.canvas).images(test))
    defective = np.array([not sample.is_normal for sample, _ in read])
    images = [image for _, image in read]

    def scores(detector: Detector, batch: int) -> np.ndarray:
        starts = range(0, len(images), batch)
        batches = [detector.detect(images[i : i + batch]) for i in starts]
        return np.array(
            [detection.pred_score for batch_detections in batches for detection in batch_detections]
        )

    on_cpu = scores(detector_of(bundle, "cpu"), 1)
    spread = float(on_cpu[~defective].std())
    threshold = bundle.calibration.threshold
    staged = detector_of(bundle, check.device, staged=16)  # before what could overwrite its memory
    plain = Detector(bundle.model, bundle.calibration, check.device)
    ways = {f"plain, batches of {n}": scores(plain, n) for n in (1, 16)}
    ways |= {f"captured, batches of {n}": scores(staged, n) for n in (1, 3, 16)}
    bundle.model.cpu()
    rows = [
        {
            "against the CPU": name,
            "largest difference": float(abs(way_scores - on_cpu).max()),
            "of the good parts' spread": float(abs(way_scores - on_cpu).max()) / spread,
            "verdicts that differ": int(((way_scores > threshold) != (on_cpu > threshold)).sum()),
            "image AUROC": float(roc_auc_score(defective, way_scores)),
        }
        for name, way_scores in {"the CPU itself": on_cpu, **ways}.items()
    ]
    yield from rows
    worst = max(abs(way_scores - on_cpu).max() for way_scores in ways.values()) / spread
    if worst > _AGREES:
        raise SystemExit(f"scores differ by {worst:.2f} of the good parts' spread")


def inference(check: Check) -> Rows:
    """Time batches of the network, plainly and captured, and whole inspections."""
    from anomaly.bundle import load_bundle
    from anomaly.runtime import detector_of

    bundle = load_bundle(check.model, check_golden=False)
    yield from _timed("demo, 224 px", bundle.model.eval(), check, partial(detector_of, bundle))


def recipes(check: Check) -> Rows:
    """Time the networks of larger recipes; untrained ones cost the same."""
    from anomaly.model import AnomalyModel
    from training.config import load_recipe

    for recipe, side in (("fast", 64),) if check.small else (("default", 448), ("best", 448)):
        config = load_recipe(recipe, [f"model.preprocess.canvas={side}"]).model
        yield from _timed(f"{recipe}, {side} px", AnomalyModel.fresh(config).eval(), check)


def _timed(name: str, model: Any, check: Check, detector: Callable[..., Any] | None = None) -> Rows:
    import torch

    from anomaly.cuda_graphs import StagedModel
    from anomaly.model import AnomalyModel
    from anomaly.preprocess import content_seed
    from anomaly.types import Placement

    assert isinstance(model, AnomalyModel)
    sizes = (1, 4) if check.small else (1, 4, 16, 64)
    side = model.config.preprocess.canvas
    model = model.to(check.device)
    staged = StagedModel(model, check.device, max(sizes))
    flops = operations(model, check.device)

    def plainly(pixels: torch.Tensor, seeds: Sequence[int]) -> None:
        model(pixels.to(check.device), seeds).cpu()

    ways: dict[str, Callable[[torch.Tensor, Sequence[int]], Any]]
    ways = {"plain": plainly, "captured": staged}
    if detector is not None:
        whole_detector, place = detector(check.device, staged=max(sizes)), Placement.filling(side)

        def inspected(pixels: torch.Tensor, seeds: Sequence[int]) -> None:
            whole_detector.detect_canvases(pixels, [place] * len(seeds))

        def by_one_thread(pixels: torch.Tensor, seeds: Sequence[int]) -> None:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            inspected(pixels, seeds)
            torch.set_num_threads(threads)

        ways |= {"inspected": inspected, "inspected, one thread": by_one_thread}
    for size in sizes:
        pixels = torch.rand(size, 3, side, side, generator=torch.Generator().manual_seed(0))
        seeds = [content_seed(canvas) for canvas in pixels]
        for way, run in ways.items():
            seconds_taken = _repeat(partial(run, pixels, seeds), 0.5 if check.small else 1.5)
            rate = size / statistics.median(seconds_taken)
            yield {
                "model": name,
                "way": way,
                "batch": size,
                "images/s": rate,
                "p50 ms": 1000 * statistics.median(seconds_taken),
                "p99 ms": 1000 * sorted(seconds_taken)[int(0.99 * len(seconds_taken))],
                "of the bf16 rate": rate * flops / check.peak if check.peak else None,
            }


def operations(model: Any, device: Any) -> float:
    """Count the matrix operations of one image's evidence."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from anomaly.scoring_path import ScoringPath, mask_indices

    side = model.config.preprocess.canvas
    path = ScoringPath(model).eval()
    indices = [indices_.to(device) for indices_ in mask_indices(model, [0])]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        path(torch.zeros(1, 3, side, side, device=device), *indices)
    return float(counter.get_total_flops())


def _repeat(run: Callable[[], Any], seconds: float) -> list[float]:
    for _ in range(3):
        run()
    seconds_taken: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(seconds_taken) < 5:
        started = time.perf_counter()
        run()
        seconds_taken.append(time.perf_counter() - started)
    return seconds_taken


def training(check: Check) -> Rows:
    """Rates of training: the default autoencoder and ViT-B, compiled and not, cached and fresh."""
    from bench.training import rates_of
    from training.config import load_recipe
    from training.data import open_dataset

    samples = open_dataset(check.data or check.parts).normal("train")[: 32 if check.small else 200]
    steps = 2 if check.small else 20
    ways: dict[str, list[str]] = {
        "default, batch 32": [],
        "default, batch 256": ["optimiser.batch_size=256"],
        "default, batch 256, compiled": ["run.compile=true", "optimiser.batch_size=256"],
        "default, batch 64, fresh": ["augment.fresh=true", "optimiser.batch_size=64"],
        "ViT-B, batch 128": [*_VIT_B, "optimiser.batch_size=128"],
        "ViT-B, batch 128, compiled": [*_VIT_B, "optimiser.batch_size=128", "run.compile=true"],
    }
    if check.small:
        ways = {name: ways[name] for name in list(ways)[:1]}
    for name, overrides in ways.items():
        config = load_recipe("default", ["plan.canvases=[]", *overrides])
        workers = replace(config.run, workers=max(2, (os.cpu_count() or 4) - 2))
        config = replace(config, run=workers)
        measured = rates_of(samples, config, steps=steps, rounds=3, peak=check.peak or 1e12)
        yield {
            "training": name,
            "images/s": measured.rates["images_per_s"],
            "GFLOP an image": measured.flops / 1e9,
            "of the bf16 rate": measured.rates["matrix_share"],
            "waiting for data": measured.rates["data_wait"],
        }


def serving(check: Check) -> Rows:
    """Load the service with JPEGs of 640 × 480 over some connections."""
    from bench.load import Target, closed
    from bench.serving import pictures, running

    images = pictures(32)
    seconds = 2.0 if check.small else 6.0
    with running("maskline raw", check.model, free=False) as (_, url):
        target = Target(url + "/score?heatmap=none", "raw")
        asyncio.run(closed(target, images, connections=8, seconds=2.0))
        for connections in (1, 32) if check.small else (1, 8, 32):
            before = asyncio.run(_stages(url))
            load = asyncio.run(closed(target, images, connections=connections, seconds=seconds))
            after = asyncio.run(_stages(url))
            yield {
                "connections": connections,
                "images/s": load.rate,
                "p50 ms": load.quantile(0.5),
                "p99 ms": load.quantile(0.99),
                "errors": sum(load.statuses.values()),
                **_between(before, after),
            }


async def _stages(url: str) -> dict[str, float]:
    """Read the sums and counts of the stages' durations and of the batches' sizes."""
    import aiohttp

    sums: dict[str, float] = {}
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        for line in (await answer.text()).splitlines():
            name, _, value = line.rpartition(" ")
            if match := re.match(
                r"maskline_(stage_duration_seconds|batch_size)_(sum|count)"
                r'\{.*?(?:stage="(\w+)")?\}',
                name,
            ):
                key = f"{match[3] or 'batch'} {match[2]}"
                sums[key] = sums.get(key, 0.0) + float(value)
    return sums


def _between(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Mean milliseconds of each stage, and mean batch, between two readings."""
    means = {}
    for key in after:
        stage, _, kind = key.rpartition(" ")
        count = after.get(f"{stage} count", 0) - before.get(f"{stage} count", 0)
        if kind == "sum" and count > 0:
            mean = (after[key] - before.get(key, 0)) / count
            means["mean batch" if stage == "batch" else f"{stage} ms"] = (
                mean if stage == "batch" else 1000 * mean
            )
    return means


def best(check: Check) -> Rows:
    """Train the recipe for a GPU, shortened, on a set that is there."""
    from training.config import load_recipe
    from training.data import open_dataset
    from training.pipeline import evaluate_model, train_model

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


SECTIONS: dict[str, Callable[[Check], Rows]] = {
    "limits": limits,
    "tests": gpu_tests,
    "demo": demo,
    "parity": parity,
    "inference": inference,
    "recipes": recipes,
    "serving": serving,
    "training": training,
    "best": best,
}


def write(check: Check) -> None:
    """Write what was found so far, as JSON and as tables."""
    text = json.dumps(check.found, indent=1, default=str)
    (check.folder / "gpu.json").write_text(text + "\n", encoding="utf-8")
    lines = [line for name, section in check.found.items() for line in _lines(name, section)]
    (check.folder / "gpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _lines(name: str, section: dict[str, Any]) -> Iterator[str]:
    taken_text = f" ({section['seconds']:g} s)" if "seconds" in section else ""
    yield f"### {name}{taken_text}\n"
    if section.get("rows"):
        yield table(section["rows"])
    for outcome in ("error", "skipped"):
        if outcome in section:
            yield f"{outcome}: {section[outcome]}"
    yield ""


def table(rows: Sequence[Row]) -> str:
    """Lay out rows under the union of their columns."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(_cell(row.get(key)) for key in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "" if value is None else str(value)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for gpu.json, gpu.md and what is trained")
    parser.add_argument(
        "--model", type=Path, help="one that is there, in place of the section `demo`"
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="a set for the sections `training` and `best`, which is left out without",
    )
    parser.add_argument("--only", type=_names, default=list(SECTIONS))
    parser.add_argument(
        "--seconds", type=float, default=400.0, help="after which none is begun any more"
    )
    options = parser.parse_args()
    if options.data is None and options.only == list(SECTIONS):
        options.only = [name for name in SECTIONS if name != "best"]
    return options


def _names(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",")]
    if unknown := set(names) - set(SECTIONS):
        raise argparse.ArgumentTypeError(f"unknown {sorted(unknown)}; known: {list(SECTIONS)}")
    return names


if __name__ == "__main__":
    main()
