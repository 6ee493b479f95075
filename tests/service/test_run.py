import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from service.run import StartError, free_port, read_settings
from tests.conftest import normal_pixels, png


def test_an_occupied_port_is_a_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StartError, match="--port") as caught:
            free_port("127.0.0.1", taken.getsockname()[1])
    assert caught.value.code == "port_in_use"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLINE_MAX_BATCH_SIZE", "7")
    monkeypatch.setenv("MASKLINE_PORT", "9000")
    settings = read_settings(port=9001)
    assert (settings.max_batch_size, settings.port) == (7, 9001)


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLINE_MAX_QUEUE_SIZE", "0")
    with pytest.raises(StartError, match="MASKLINE_MAX_QUEUE_SIZE"):
        read_settings()


@pytest.mark.slow
def test_the_real_server_serves_and_stops(tiny_folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "maskline", "serve", "--models", str(tiny_folder)]
    process = subprocess.Popen(
        [*command, "--port", str(port)], stderr=subprocess.PIPE, env=os.environ | {"CI": "1"}
    )
    try:
        answer = _post(f"http://127.0.0.1:{port}/score", png(normal_pixels(1)))
        assert answer["verdict"] in ("OK", "NG")
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    assert b"Application shutdown complete" in log
    assert process.returncode in (0, -signal.SIGTERM), log.decode()


def test_a_server_without_models_says_so_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "maskline", "serve", "--models", str(tmp_path), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error [model_not_found]: no model in")


def _post(url: str, body: bytes) -> dict[str, object]:
    for _ in range(300):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as reply:
                answer: dict[str, object] = json.loads(reply.read())
                return answer
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server never answered")
