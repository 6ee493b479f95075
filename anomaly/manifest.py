"""The manifest of a model folder and its files, read as hostile input.

Nothing in a folder is believed: JSON is bounded in size and depth and has neither doubled keys nor
NaN, every field has its type, names stay inside the folder, files are regular files with the stated
digest. Whatever is wrong is `ModelCorrupt`. Knows neither weights nor what a configuration means.
"""

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from anomaly.config import from_dict
from anomaly.errors import ConfigError, ModelCorrupt, ModelNotFound, ModelSchemaUnknown

SCHEMA_VERSION = 3
MANIFEST = "manifest.json"
ANOMALY = "anomaly"  # the kind of a model of anomalies; models of labels name their task
_MOST_BYTES = 16 * 1024 * 1024
_MOST_DEPTH = 32
_MOST_LABEL = 128
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says, each field of its type; `digest` is the SHA-256 of its bytes."""

    name: str
    version: str
    config: dict[str, Any]
    calibration: dict[str, Any] | None
    cameras: dict[str, dict[str, Any]]
    card: dict[str, Any]
    files: dict[str, str]
    digest: str = ""
    kind: str = ANOMALY


def read_manifest(folder: Path) -> Manifest:
    """Read and check a folder's manifest.

    Raises `ModelNotFound`, `ModelSchemaUnknown` or `ModelCorrupt`.
    """
    path = folder / MANIFEST
    if not os.path.lexists(path):
        raise ModelNotFound(f"no model in {folder} (there is no {MANIFEST}); train one first")
    raw = read_plain(path, _MOST_BYTES)
    try:
        values = parse(raw)
        _check_schema(path, values)
        names = {field.name for field in fields(Manifest)} - {"digest"}
        # Others are allowed: a later version may write more for people to read.
        manifest = from_dict(Manifest, {k: v for k, v in values.items() if k in names})
        _check_names(manifest)
    except (ValueError, RecursionError, ConfigError) as error:
        raise ModelCorrupt(f"{path} is not a manifest: {_short(error)}") from error
    return Manifest(
        **{name: getattr(manifest, name) for name in names},
        digest=hashlib.sha256(raw).hexdigest(),
    )


def kind_of(folder: Path) -> str:
    """Return the kind that a folder's manifest states, `anomaly` where it states or holds none."""
    try:
        kind = parse(read_plain(folder / MANIFEST, _MOST_BYTES)).get("kind", ANOMALY)
    except (ModelCorrupt, ValueError, RecursionError):
        return ANOMALY  # whoever loads it says what is wrong
    return kind if isinstance(kind, str) else ANOMALY


def parse(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object strictly; raises `ValueError` or `RecursionError`."""
    values = json.loads(
        raw.decode("utf-8"),
        object_pairs_hook=_without_doubles,
        parse_constant=_no_number,
        parse_float=_finite,
    )
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    _check_depth(values)
    return values


def is_plain(name: object) -> bool:
    """Whether this can be a version or a file name: it stays in its folder wherever used."""
    return isinstance(name, str) and _PLAIN.fullmatch(name) is not None


def read_plain(path: Path, most_bytes: int | None = None) -> bytes:
    """Read a regular file that is no link; raises `ModelCorrupt`.

    A link could lead to a device that never ends, or to what is not the model's.
    """
    try:
        # Without O_NONBLOCK a FIFO would wait for somebody to write.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = "it is a link" if path.is_symlink() else getattr(error, "strerror", error)
        raise ModelCorrupt(
            f"{path} cannot be read ({reason}); copy the whole folder again"
        ) from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise ModelCorrupt(f"{path} is not a regular file; copy the whole folder again")
    with os.fdopen(fd, "rb") as file:
        if most_bytes is not None and status.st_size > most_bytes:
            raise ModelCorrupt(f"{path} has {status.st_size} bytes, more than any of its kind")
        return file.read(status.st_size + 1)


def read_files(folder: Path, manifest: Manifest) -> Iterator[tuple[str, bytes]]:
    """Yield the files that a manifest names, each held to its SHA-256; raises `ModelCorrupt`."""
    for name, sha256 in manifest.files.items():
        path = folder / name
        if not is_plain(name) or not os.path.lexists(path):  # it cannot reach outside its folder
            raise ModelCorrupt(f"the model in {folder} lacks {name}; copy the whole folder again")
        data = read_plain(path)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ModelCorrupt(
                f"{path} was changed or damaged (its SHA-256 differs); copy it again"
            )
        yield name, data


def _check_schema(path: Path, values: dict[str, Any]) -> None:
    schema = values.get("schema_version")
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise ConfigError(f"schema_version is {schema!r}; want a whole number")
    if schema != SCHEMA_VERSION:
        raise ModelSchemaUnknown(
            f"{path} has schema version {schema}, this version reads {SCHEMA_VERSION}; update "
            "Maskline or train the model again"
        )


def _check_names(manifest: Manifest) -> None:
    if not is_plain(manifest.version):
        raise ConfigError(
            f"version is {manifest.version!r}; want 1 to 64 letters, digits, '.', '_' or '-', with "
            "no '.' in front"
        )
    for label in (manifest.name, *manifest.cameras):
        if not 0 < len(label) <= _MOST_LABEL:
            raise ConfigError(f"{label!r} is no name; want 1 to {_MOST_LABEL} characters")
    for name, sha256 in manifest.files.items():
        if not _SHA256.fullmatch(sha256):
            raise ConfigError(f"files.{name} is {sha256!r}; want a SHA-256 in hexadecimal")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands there twice")
    return values


def _no_number(literal: str) -> float:
    raise ValueError(f"{literal} is no number")


def _finite(literal: str) -> float:
    value = float(literal)
    return value if math.isfinite(value) else _no_number(literal)


def _check_depth(values: Any) -> None:
    """Raise `ValueError` where values lie deeper than they may, or a text is none."""
    level = [values]
    for _ in range(_MOST_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += [*value, *value.values()]
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str):
                value.encode("utf-8")  # a lone surrogate could be answered to nobody
        if not below:
            return
        level = below
    raise ValueError(f"it nests more than {_MOST_DEPTH} levels deep")


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]}…"
