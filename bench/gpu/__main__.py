"""What a GPU does with Maskline, in one command of a few minutes and without a network.

    python -m bench.gpu gpu-check --data ../shared/data/magnetic_tile

Sections, each by itself: one that fails says so, and the others go on. `gpu.json` and `gpu.md` in
the folder that is given are written anew after each row, so that a run which is cut off leaves what
it had. Ends with 1 where a section failed. Without a GPU everything runs on the CPU in small sizes:
a rehearsal, no measurement.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.gpu.check import Check, Rows
from bench.gpu.inference import inference, recipes
from bench.gpu.limits import limits
from bench.gpu.machine import machine, missing_packages
from bench.gpu.models import best, demo
from bench.gpu.parity import parity
from bench.gpu.report import write
from bench.gpu.serving import serving
from bench.gpu.tests import gpu_tests
from bench.gpu.training import training

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
    check.found["machine"] = {"rows": [machine(torch, device)]}
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
    """Run one section, writing each row as it comes; what it raises is its result."""
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


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.gpu", description=__doc__)
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
