"""What a machine has, and what it lacks."""

import platform
import re
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bench.gpu.check import ROOT


def missing_packages() -> list[str]:
    """Return what the project depends on and this environment lacks."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    absent = []
    for line in [*project["dependencies"], "aiohttp", "pytest", "pytest-timeout", "hypothesis"]:
        name = re.split(r"[<>=!;\[ ]", line, maxsplit=1)[0]
        try:
            version(name)
        except PackageNotFoundError:
            absent.append(name)
    return absent


def machine(torch: Any, device: Any) -> dict[str, Any]:
    """Describe the machine."""
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
