"""The tests that need a GPU."""

import subprocess
import sys

from bench.gpu.check import ROOT, Check, Rows

_TEST_FILES = (
    "tests/anomaly/test_detector.py",
    "tests/anomaly/test_cuda_graphs.py",
    "tests/training/test_loop.py",
    "tests/test_gpu.py",
)


def gpu_tests(check: Check) -> Rows:
    """Run the tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    # Other versions of libraries may be installed there.
    command += ["-o", "filterwarnings=default"]
    done = subprocess.run(
        [*command, *_TEST_FILES],
        cwd=ROOT,
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
