from pathlib import Path

import pytest

from anomaly.bundle import Bundle, load_bundle, save_bundle
from training.pipeline import export_folder


@pytest.fixture(scope="session")
def exported(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny model with its graph, read as a service reads it."""
    folder: Path = tmp_path_factory.mktemp("exported") / "tiny"
    save_bundle(tiny_bundle, folder, "v1")
    _, timed = export_folder(folder)
    assert min(timed.milliseconds.values()) > 0
    assert {"torch", "ONNX Runtime"} <= set(timed.milliseconds)
    return load_bundle(folder)
