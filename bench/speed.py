"""Speed and quality beside what anomalib would deploy: the same images, cores and minutes.

    python -m bench.speed ../data/fabric runs/fabric ../data/ultrasound runs/ultrasound

Pairs of a set and of a model that was trained on it. Peers are fitted on the same normal images
with the same backbone weights and canvas, exported by anomalib itself and run by its OpenVINO
inferencer in whatever precision OpenVINO takes here. EfficientAD has no weights without a network:
it is timed as it is born, and has no AUROC. An image is a file's bytes; all decode and place it
alike. One alone has all cores; then as many loops as the service computes batches at once share
them. Methods take turns, the table has medians of rounds. The limit is what the network's products
take at the measured rates of matrix products, if nothing else took time.
"""

import argparse
import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch.utils.flop_counter import FlopCounterMode

from anomaly.bundle import Bundle, load_bundle
from anomaly.device import Cores, has_matrix_units, share_cores, usable_cores
from anomaly.image import decode_image
from anomaly.model import AnomalyModel
from anomaly.preprocess import PreprocessConfig, place
from anomaly.runtime import detector_of
from bench.peers import PEERS
from bench.sessions import independent
from training.config import TrainConfig, load_recipe
from training.data import Dataset, open_dataset
from training.meter import matrix_rate
from training.plan import with_canvas

_TIMED = 24  # images a round
_PEERS = ("PatchCore 2+3", "PatchCore 3+4", "PaDiM")
_UNTRAINED = "EfficientAD-S (untrained)"
_LEAST_PX = 256  # EfficientAD takes nothing smaller

Inspect = Callable[[bytes], float]  # a file's bytes to its score


@dataclass(frozen=True, slots=True)
class Method:
    """One method, ready to run: alone with all cores, or one inspection for each loop."""

    name: str
    alone: Inspect
    loops: Sequence[Inspect]


@dataclass(frozen=True, slots=True)
class Timed:
    """Medians over rounds: milliseconds of an image alone, images a second by all loops."""

    ms: float
    rate: float


def main() -> None:
    """Fit the peers, time all methods in turn and print a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path, nargs="+", help="SET MODEL, as often as wished")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if len(options.pairs) % 2:
        parser.error("name a set and its model, in pairs")
    for data, folder in zip(options.pairs[::2], options.pairs[1::2], strict=True):
        bundle, dataset = load_bundle(folder), independent(open_dataset(data))
        with tempfile.TemporaryDirectory() as place_for_graphs:
            methods = [*ours(bundle), *peers(bundle, dataset, Path(place_for_graphs))]
            aurocs = {method.name: auroc(method, dataset) for method in methods}
            timed = timings(methods, dataset, options.rounds)
        print(f"\n{data.name}, {bundle.model.config.preprocess.canvas} px\n")
        print(table(aurocs, timed))
        print(f"\nThe limit is {limit_ms(bundle.model):.1f} ms an image.", flush=True)


def ours(bundle: Bundle) -> list[Method]:
    """Maskline as it serves here, and in float32."""
    share = share_cores("cpu", usable_cores())

    def method(name: str, precision: Any) -> Method:
        alone = detector_of(
            bundle, cores=Cores(1, share.lanes * share.threads), precision=precision
        )
        lane = Cores(share.lanes, share.threads)
        beside = detector_of(bundle, cores=lane, precision=precision)

        def inspect(data: bytes) -> float:
            with lane.batch():
                return beside.detect([data])[0].pred_score

        return Method(name, lambda data: alone.detect([data])[0].pred_score, [inspect] * lane.lanes)

    return [method("Maskline", "auto"), method("Maskline, float32", "fp32")]


def peers(bundle: Bundle, dataset: Dataset, folder: Path) -> list[Method]:
    """Fit anomalib's models on the set's normal training images and export them."""
    from anomalib.models import EfficientAd, Padim, Patchcore

    side = bundle.model.config.preprocess.canvas
    config: TrainConfig = with_canvas(load_recipe("default"), side)
    normal = dataset.normal("train")
    methods = []
    for name in _PEERS:
        fitted = PEERS[name](normal, config, 0).model
        kind = Padim if name == "PaDiM" else Patchcore
        shell: Any = kind(pre_trained=False, pre_processor=_preprocessor(side))
        shell.model = fitted
        methods.append(_deployed(name, shell, folder / name.replace(" ", "-"), config))
    untrained = EfficientAd(pre_processor=_preprocessor(max(side, _LEAST_PX)))
    return [*methods, _deployed(_UNTRAINED, untrained, folder / "efficientad", config)]


def _preprocessor(side: int) -> Any:
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms import v2

    # What the bundled weights want; canvases come at this size already.
    return PreProcessor(v2.Compose([v2.Resize((side, side)), v2.Normalize([0.5] * 3, [0.5] * 3)]))


def _deployed(name: str, shell: Any, folder: Path, config: TrainConfig) -> Method:
    """Export a model as anomalib does, and load it by anomalib's inferencer."""
    from anomalib.deploy import OpenVINOInferencer

    preprocess, share = config.model.preprocess, share_cores("cpu", usable_cores())
    side = preprocess.canvas
    fixed = {"dynamic_axes": None, "dynamic_shapes": None}  # PatchCore cannot be exported otherwise
    graph = shell.eval().to_openvino(folder.absolute(), input_size=(side, side), onnx_kwargs=fixed)

    def loaded(threads: int) -> Inspect:
        settings = {"INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": "1"}
        with contextlib.chdir(folder):  # it leaves a cache where it is
            inferencer = OpenVINOInferencer(graph, "CPU", settings)
        return lambda data: _score(inferencer, data, preprocess)

    loops = [loaded(share.threads) for _ in range(share.lanes)]
    return Method(name, loaded(share.lanes * share.threads), loops)


def _score(inferencer: Any, data: bytes, preprocess: PreprocessConfig) -> float:
    canvas, _ = place(decode_image(data, canvas=preprocess.canvas), preprocess)
    return float(np.asarray(inferencer.predict(canvas).pred_score).flatten()[0])


def auroc(method: Method, dataset: Dataset) -> float | None:
    """Image AUROC on the test split; None for what was not trained."""
    if method.name == _UNTRAINED:
        return None
    test = dataset.select("test")
    scores = [method.alone(sample.path.read_bytes()) for sample in test]
    return float(roc_auc_score([not sample.is_normal for sample in test], scores))


def timings(methods: Sequence[Method], dataset: Dataset, rounds: int) -> dict[str, Timed]:
    """Time all methods in turn, so many rounds."""
    images = [sample.path.read_bytes() for sample in dataset.select("test")[:_TIMED]]
    alone: dict[str, list[float]] = {method.name: [] for method in methods}
    rates: dict[str, list[float]] = {method.name: [] for method in methods}
    for _ in range(rounds):
        for method in methods:
            alone[method.name].append(_alone_ms(method, images))
            rates[method.name].append(_rate(method, images))
    return {
        name: Timed(statistics.median(alone[name]), statistics.median(rates[name]))
        for name in alone
    }


def _alone_ms(method: Method, images: Sequence[bytes]) -> float:
    method.alone(images[0])
    durations = []
    for data in images:
        started = time.perf_counter()
        method.alone(data)
        durations.append(1000 * (time.perf_counter() - started))
    return statistics.median(durations)


def _rate(method: Method, images: Sequence[bytes]) -> float:
    def loop(inspect: Inspect, ready: threading.Barrier) -> None:
        inspect(images[0])
        ready.wait()
        for data in images:
            inspect(data)
        ready.wait()

    ready = threading.Barrier(len(method.loops) + 1)
    threads = [threading.Thread(target=loop, args=(inspect, ready)) for inspect in method.loops]
    for thread in threads:
        thread.start()
    ready.wait()
    started = time.perf_counter()
    ready.wait()
    return len(method.loops) * len(images) / (time.perf_counter() - started)


def limit_ms(model: AnomalyModel) -> float:
    """What a network's products take on all cores at the measured rates, milliseconds.

    Those of the autoencoder in bfloat16 where this processor has units for it.
    """
    side = model.config.preprocess.canvas
    pixels = torch.zeros(1, 3, side, side)
    cpu = torch.device("cpu")
    with torch.inference_mode():
        with FlopCounterMode(display=False) as network:
            model(pixels, [0])
        tokens = model.target(pixels)
        with FlopCounterMode(display=False) as autoencoder:
            model.predict(tokens, [0])
    halves = torch.bfloat16 if has_matrix_units() else torch.float32
    of_autoencoder = autoencoder.get_total_flops()
    seconds = of_autoencoder / matrix_rate(cpu, halves)
    seconds += (network.get_total_flops() - of_autoencoder) / matrix_rate(cpu, torch.float32)
    return float(1000 * seconds)


def table(aurocs: dict[str, float | None], timed: dict[str, Timed]) -> str:
    """Lay out a line for each method; ratios are of the first one's."""
    first = next(iter(timed.values()))
    lines = [
        "| method | image AUROC | ms alone | images/s | images/s of Maskline's |",
        "|---" * 5 + "|",
    ]
    for name, figures in timed.items():
        quality = "–" if aurocs[name] is None else f"{aurocs[name]:.3f}"
        lines.append(
            f"| {name} | {quality} | {figures.ms:.1f} | {figures.rate:.1f} | "
            f"{figures.rate / first.rate:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
