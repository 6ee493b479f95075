"""One model behind Maskline and behind its peers: `python -m bench.servers NAME MODEL PORT [--free]`.

All use the same decoder, the same detector, batches of up to 16 images, and share the cores alike:
as many workers as Maskline computes batches at once, of as many threads. With `--free` the model
costs nothing: what is left is the server. The peers are an optional extra, `pip install -e
'.[bench-serving]'`.
"""

import argparse
import base64
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anomaly.bundle import Bundle, load_bundle
from anomaly.detector import Detector
from anomaly.device import share_cores, usable_cores
from anomaly.image import decode_image
from anomaly.preprocess import place
from anomaly.types import Detection, FloatArray, Placement

NAMES = ("maskline", "litserve", "ray", "bentoml")
BATCH = 16
_CORES = share_cores(
    "cpu", usable_cores(), batches=int(os.environ.get("MASKLINE_PARALLEL_BATCHES", 0)) or None
)
LANES, THREADS = _CORES.lanes, _CORES.threads  # numbers, as Ray pickles what its classes use
_MODEL, _FREE = "MASKLINE_BENCH_MODEL", "MASKLINE_BENCH_FREE"


class Scorer:
    """Decodes and scores, as a peer's worker does."""

    def __init__(self, bundle: Bundle | None = None) -> None:
        torch.set_num_threads(THREADS)
        self._bundle = bundle or load_bundle(Path(os.environ[_MODEL]), check_golden=False)
        self._detector = self._bundle.detector()
        if os.environ.get(_FREE) == "1":
            make_free(self._detector)

    def decode(self, data: bytes) -> tuple[FloatArray, Placement]:
        """Decode and place an image."""
        config = self._bundle.model.config.preprocess
        return place(decode_image(data, canvas=config.canvas), config)

    def run(self, works: Sequence[tuple[FloatArray, Placement]]) -> list[float]:
        """Score decoded images."""
        pixels = torch.from_numpy(np.stack([canvas for canvas, _ in works])).permute(0, 3, 1, 2)
        detections = self._detector.detect_canvases(pixels.contiguous(), [p for _, p in works])
        return [detection.pred_score for detection in detections]


def make_free(detector: Detector) -> None:
    """Let a detector answer at once, always the same."""
    grid = detector.model.target.map_grid
    patches = np.zeros((grid.rows, grid.cols), np.float32)
    errors = np.zeros((len(detector.model.names), grid.length), np.float16)

    def nothing(
        pixels: torch.Tensor,
        placements: Sequence[Placement],
        cameras: Sequence[str | None] | None = None,
    ) -> list[Detection]:
        side = pixels.shape[-1]
        canvas = np.zeros((side, side), np.float32)
        return [
            Detection(0.0, 0.0, 1.0, patches, canvas, placement, 1.0, 1.0, errors=errors)
            for placement in placements
        ]

    detector.detect_canvases = nothing  # type: ignore[method-assign]


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("model", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--free", action="store_true")
    options = parser.parse_args()
    os.environ[_MODEL] = str(options.model.absolute())
    os.environ[_FREE] = "1" if options.free else "0"
    start = {"maskline": _maskline, "litserve": _litserve, "ray": _ray, "bentoml": _bentoml}
    start[options.name](options.model, options.port, options.free)


def _maskline(model: Path, port: int, free: bool) -> None:
    from service.inference.engine import Engine
    from service.run import serve

    if free:
        plain = Engine._prepare  # after the golden scores were held, before the first request

        def prepare(engine: Engine, bundle: Bundle) -> Detector:
            detector = plain(engine, bundle)
            make_free(detector)
            return detector

        setattr(Engine, "_prepare", prepare)  # noqa: B010 - mypy knows no patched method
    serve(models_dir=model, port=port, auth="off", log_level="warning", record=_record())


def _record() -> str:
    """Peers store nothing; `MASKLINE_RECORD=on` says what it costs."""
    return os.environ.get("MASKLINE_RECORD", "off")


def _litserve(model: Path, port: int, free: bool) -> None:
    import litserve

    from bench.lit import Api

    api = Api(max_batch_size=BATCH, batch_timeout=0.0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=LANES)
    server.run(port=port, host="127.0.0.1", generate_client_file=False, log_level="warning")


def _ray(model: Path, port: int, free: bool) -> None:
    import ray
    from ray import serve as replicas

    @replicas.deployment(
        num_replicas=LANES, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1}
    )
    class App:
        def __init__(self) -> None:
            self.scorer = Scorer()

        @replicas.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.0)
        async def run(self, works: list[Any]) -> list[float]:
            return self.scorer.run(works)

        async def __call__(self, request: Any) -> dict[str, float]:
            form = await request.form()
            data = await form["file"].read()
            return {"score": await self.run(self.scorer.decode(data))}

    ray.init(include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": _environment()})
    replicas.start(http_options={"host": "127.0.0.1", "port": port})
    app: Any = App
    replicas.run(app.bind(), blocking=True)


def _bentoml(model: Path, port: int, free: bool) -> None:
    module = "bench.bento:Scoring"
    arguments = ["bentoml", "serve", module, "--port", str(port), "--host", "127.0.0.1"]
    os.environ.update(_environment())
    os.execv(str(Path(sys.executable).with_name("bentoml")), arguments)


def _environment() -> dict[str, str]:
    return {_MODEL: os.environ[_MODEL], _FREE: os.environ[_FREE], "PYTHONPATH": str(Path.cwd())}


def from_base64(text: str) -> bytes:
    """Decode an image that came in JSON."""
    return base64.b64decode(text)


if __name__ == "__main__":
    main()
