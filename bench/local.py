"""What every benchmark needs that starts its own server on this machine."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2

_START_S = 120.0


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_service(models: Path, **variables: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start `maskline serve` without keys; returns it with its address once it is ready."""
    port = free_port()
    command = [sys.executable, "-m", "maskline", "serve", "--models", str(models), "--no-auth"]
    process = subprocess.Popen([*command, "--port", str(port)], env=os.environ | variables)
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < until:
        try:
            if httpx2.get(f"{url}/health/ready").status_code == 200:
                return process, url
        except httpx2.TransportError:
            time.sleep(0.2)
    process.kill()
    raise SystemExit(f"the service did not start; try `{' '.join(command)}`")
