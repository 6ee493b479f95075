"""A real Alertmanager with our file: what reaches the plant's webhook."""

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bench.local import free_port
from tests.deploy.test_live import wait_for

CONFIG = Path(__file__).parents[2] / "deploy/alertmanager/alertmanager.yml"

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus-alertmanager") is None,
    reason="needs Debian's package prometheus-alertmanager",
)


class Webhook:
    """Stands for the plant's own system: keeps what it was sent."""

    def __init__(self) -> None:
        told: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.told = told
        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/alerts"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def alerts(self) -> dict[tuple[str, str, str], str]:
        """Return the latest status of each alert."""
        return {
            (
                one["labels"]["alertname"],
                one["labels"].get("camera", ""),
                one["labels"]["instance"],
            ): one["status"]
            for notice in self.told
            for one in notice["alerts"]
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    made = Webhook()
    yield made
    made.close()


@pytest.fixture
def alertmanager(webhook: Webhook, tmp_path: Path) -> Iterator[str]:
    text = CONFIG.read_text()
    example, wait = "http://andon.plant.local/alerts", "group_wait: 10s"
    assert example in text
    assert wait in text
    faster = text.replace(example, webhook.url).replace(
        wait, "group_wait: 1s\n  group_interval: 1s"
    )
    (tmp_path / "alertmanager.yml").write_text(faster)
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [
            "prometheus-alertmanager",
            f"--config.file={tmp_path / 'alertmanager.yml'}",
            f"--storage.path={tmp_path / 'data'}",
            f"--web.listen-address={address}",
            "--cluster.listen-address=",
            "--log.level=error",
        ]
    )
    try:
        wait_for(f"http://{address}/-/ready")
        yield f"http://{address}/api/v2/alerts"
    finally:
        process.terminate()
        process.wait(30)


def test_the_webhook_is_told_and_a_service_that_is_down_not_of_its_cameras(
    alertmanager: str, webhook: Webhook
) -> None:
    down = _alert("NotReady", "b:8000")
    silent = [_alert("CameraSilent", "a:8000", "top"), _alert("CameraSilent", "b:8000", "left")]

    assert httpx2.post(alertmanager, json=[down]).status_code == 200
    assert httpx2.post(alertmanager, json=silent).status_code == 200

    wanted = {("NotReady", "", "b:8000"): "firing", ("CameraSilent", "top", "a:8000"): "firing"}
    _until(lambda: wanted.keys() <= webhook.alerts().keys())
    time.sleep(2)  # a suppressed alert would have come by now
    assert webhook.alerts() == wanted


def test_the_webhook_is_told_when_it_is_over(alertmanager: str, webhook: Webhook) -> None:
    silent = _alert("CameraSilent", "a:8000", "top")
    key = ("CameraSilent", "top", "a:8000")
    httpx2.post(alertmanager, json=[silent])
    _until(lambda: webhook.alerts().get(key) == "firing")

    httpx2.post(alertmanager, json=[silent | {"endsAt": _now(-1)}])

    _until(lambda: webhook.alerts().get(key) == "resolved")


def _alert(name: str, instance: str, camera: str = "") -> dict[str, Any]:
    labels = {"alertname": name, "instance": instance, "severity": "critical"}
    return {"labels": labels | ({"camera": camera} if camera else {}), "startsAt": _now(-60)}


def _now(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


def _until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until, "waited for half a minute"
        time.sleep(0.1)
