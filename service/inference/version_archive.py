"""Versions that were served, kept beside the models so that a rollback survives a restart.

    <models_dir>/.maskline/chosen.json            which version serves instead of the folder's own
    <models_dir>/.maskline/<name>/<version>/      hard links to the files of the last versions

Where that cannot be written (a read-only volume) nothing is kept, and a rollback lasts until the
restart.
"""

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from anomaly.bundle import own_files
from anomaly.folders import is_plain_name
from anomaly.manifest import MANIFEST
from record.result import JsonObject

_log = logging.getLogger(__name__)
_VERSIONS_ARCHIVED = 3  # versions of a model: the active, the one before, the one staged


@dataclass(frozen=True, slots=True)
class ChosenVersion:
    """`version` serves although the model's folder holds `instead_of`."""

    version: str
    instead_of: str


class Archive:
    """Reads and writes the folder; a failure to write is a warning, never an error of a request."""

    def __init__(self, models_dir: Path) -> None:
        single = (models_dir / MANIFEST).is_file()  # then the folder itself is replaced as a whole
        self._root = (models_dir.absolute().parent if single else models_dir) / ".maskline"

    def keep(self, folder: Path, name: str, version: str) -> None:
        """Link the files of a model folder, and forget all but the last few versions."""
        place = self._root / name / version
        if place.exists():
            os.utime(place)
            return
        try:
            staging = place.with_name(f".{version}")
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            for file in own_files(folder):  # others may lie there, which are none of the model's
                if (folder / file).is_file():
                    _link(folder / file, staging / file)
            staging.rename(place)
            self._forget_old(name)
        except OSError as error:
            _log.warning(
                "cannot keep version %s of model %s (%s); it cannot be rolled back to after a "
                "restart",
                version,
                name,
                error,
            )

    def folder(self, name: str, version: str) -> Path | None:
        """Return where a version is kept, if it is."""
        place = self._root / name / version
        return place if (place / MANIFEST).is_file() else None

    def chosen(self, name: str) -> ChosenVersion | None:
        """Return what a rollback chose for a model."""
        choice = self._read().get(name)
        if choice is None:
            return None
        version, instead_of = choice.get("version"), choice.get("instead_of")
        if not (is_plain_name(version) and is_plain_name(instead_of)):
            _log.warning("%s names no version of %s; its own folder serves", self._root, name)
            return None
        return ChosenVersion(version, instead_of)

    def is_chosen_against(self, name: str, version: str) -> bool:
        """Whether another version of a model was chosen to serve instead of this one."""
        choice = self.chosen(name)
        return choice is not None and choice.instead_of == version

    def choose(self, name: str, choice: ChosenVersion | None) -> None:
        """Remember which version serves; None means the one in the model's folder."""
        choices = self._read()
        choices.pop(name, None)
        if choice is not None and choice.version != choice.instead_of:
            choices[name] = {"version": choice.version, "instead_of": choice.instead_of}
        try:
            self._root.mkdir(exist_ok=True)
            staging = self._root / ".chosen.json"
            staging.write_text(json.dumps(choices, indent=2), encoding="utf-8")
            staging.rename(self._root / "chosen.json")
        except OSError as error:
            _log.warning("cannot remember which version of %s serves (%s)", name, error)

    def _read(self) -> dict[str, JsonObject]:
        try:
            choices = json.loads((self._root / "chosen.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            _log.warning("%s cannot be read (%s); models' own folders serve", self._root, error)
            return {}
        if not isinstance(choices, dict):
            _log.warning("%s/chosen.json is no list of choices", self._root)
            return {}
        return {name: entry for name, entry in choices.items() if isinstance(entry, dict)}

    def _forget_old(self, name: str) -> None:
        archived = sorted((self._root / name).iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for path in archived[:-_VERSIONS_ARCHIVED]:
            shutil.rmtree(path, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
