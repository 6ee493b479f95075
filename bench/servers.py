"""One model behind Maskline and its peers: `python -m bench.servers NAME MODEL PORT [--free]`.

All use the same decoder, the same detector, batches of up to 16 images, and share the cores alike:
as many workers as Maskline computes batches at once, of as many threads. With `--free` the model
costs nothing: what is left is the server. The peers are an optional extra, `pip install -e
'.[bench-serving]'`.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from anomaly.bundle import Bundle
from anomaly.detector import Detector
from bench.scorer import BATCH, FREE, LANES, MODEL, Scorer, make_free

NAMES = ("maskline", "litserve", "ray", "bentoml")


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("model", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--free", action="store_true")
    options = parser.parse_args()
    os.environ[MODEL] = str(options.model.absolute())
    os.environ[FREE] = "1" if options.free else "0"
    start = {"maskline": _maskline, "litserve": _litserve, "ray": _ray, "bentoml": _bentoml}
    start[options.name](options.model, options.port, free=options.free)


def _maskline(model: Path, port: int, *, free: bool) -> None:
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


def _litserve(model: Path, port: int, *, free: bool) -> None:
    import litserve

    from bench.lit import Api

    api = Api(max_batch_size=BATCH, batch_timeout=0.0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=LANES)
    server.run(port=port, host="127.0.0.1", generate_client_file=False, log_level="warning")


def _ray(model: Path, port: int, *, free: bool) -> None:
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


def _bentoml(model: Path, port: int, *, free: bool) -> None:
    module = "bench.bento:Scoring"
    arguments = ["bentoml", "serve", module, "--port", str(port), "--host", "127.0.0.1"]
    os.environ.update(_environment())
    os.execv(str(Path(sys.executable).with_name("bentoml")), arguments)


def _environment() -> dict[str, str]:
    return {MODEL: os.environ[MODEL], FREE: os.environ[FREE], "PYTHONPATH": str(Path.cwd())}


if __name__ == "__main__":
    main()
