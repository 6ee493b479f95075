"""From a model's folder to a version that can serve."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from anomaly.bundle import Bundle, load_bundle, stored_version
from anomaly.calibration_file import calibration_digest
from anomaly.detector import Detector
from anomaly.device import give_back_memory
from service.inference.model_memory import ModelMemory
from service.inference.served_model import ServedModel, Slot
from service.inference.version_archive import Archive

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelReader:
    """Reads versions, in a thread; `prepare(bundle)` puts one on the device and warms it up."""

    archive: Archive
    memory: ModelMemory
    prepare: Callable[[Bundle], Detector]

    def read_chosen(self, slot: Slot) -> ServedModel:
        """Read the folder's version, or the one that a rollback chose instead of it."""
        choice = self.archive.chosen(slot.name)
        if choice is not None and choice.instead_of == stored_version(slot.folder):
            archived = self.archive.folder(slot.name, choice.version)
            if archived is not None:
                return self.read(slot, archived)
            _log.warning("version %s of %s is not kept any more", choice.version, slot.name)
        return self.read(slot, slot.folder)

    def read(self, slot: Slot, folder: Path) -> ServedModel:
        """Read a version, hold it to its golden scores, warm it up and keep it in the archive."""
        started = time.monotonic()
        bundle = replace(load_bundle(folder), name=slot.name)  # a folder may have been renamed
        detector = self.prepare(bundle)
        digests: dict[str | None, str] = {None: calibration_digest(detector.calibration)}
        digests |= {
            camera: calibration_digest(camera_calibration)
            for camera, camera_calibration in bundle.cameras.items()
        }
        model = ServedModel(slot.name, bundle, detector, self.memory.needs(folder), digests)
        self.archive.keep(folder, slot.name, bundle.version)
        give_back_memory()  # reading and warming up leave more than twice what a model holds
        seconds = time.monotonic() - started
        _log.info("loaded model %s version %s in %.1f s", slot.name, bundle.version, seconds)
        return model
