"""Images and evidence of results, kept for a while: in a folder, or wherever fsspec reaches.

    <place>/<yyyymmdd-hhm>/<result_id>.image       the bytes as they were sent;
                                                   a folder is ten minutes
    <place>/<yyyymmdd-hhm>/<result_id>.evidence    what was found, as safetensors
    <place>/cases/<result_id>.*                    what somebody said something of:
                                                   never tidied away
    <place>/cases/<result_id>.mask                 which pixels somebody marked, as PNG; it lies
                                                   nowhere else

Writing is a thread of its own behind a bounded queue: a slow disk costs pictures, never an
inspection.
"""

import contextlib
import logging
import secrets
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import fsspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

_log = logging.getLogger(__name__)

Arrays = Mapping[str, np.ndarray]
Policy = Literal["all", "anomalies", "sampled", "none"]
_CASES, _IMAGE, _EVIDENCE, _MASK = "cases", "image", "evidence", "mask"
_MOST_WAITING_BYTES = 64_000_000
_TIDY_S = 60.0
_PIN_S = 10.0


@dataclass(frozen=True, slots=True)
class KeepConfig:
    """What is kept, and for how long.

    `sampled` keeps what is not OK and a `share` of the rest. Whichever of `days` and `megabytes` is
    reached first lets the oldest go.
    """

    policy: Policy = "sampled"
    share: float = 0.1
    days: float = 30
    megabytes: float = 2000

    def wants(self, result_id: str, verdict: str) -> bool:
        """Whether to keep a result's image; the sample follows from the result's random id."""
        if self.policy in ("all", "none"):
            return self.policy == "all"
        if verdict != "OK":
            return True
        return self.policy == "sampled" and int(result_id[:8], 16) < self.share * 2**32


@dataclass(frozen=True, slots=True)
class KeptImage:
    """What stands behind one result: the image as it was sent, and arrays of evidence by name."""

    result_id: str
    inspected_at: datetime
    image: bytes
    evidence: Arrays

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.image) + sum(array.nbytes for array in self.evidence.values())


class KeptStore:
    """Reads from any thread; writes and tidies in one.

    `place` is a folder or an address of fsspec's (`s3://bucket/maskline` with s3fs installed). With
    the policy `none` it is only read: nothing is made there, and nothing counted.
    """

    def __init__(self, place: str, config: KeepConfig) -> None:
        self._fs, self._root = fsspec.url_to_fs(place, skip_instance_cache=True)
        self.config = config
        self.bytes = 0
        self._sizes: dict[str, int] = defaultdict(int)  # of each ten minutes
        if config.policy == "none":
            return
        self._fs.makedirs(self._root, exist_ok=True)
        for path, details in self._fs.find(self._root, detail=True).items():
            self._count(path, details["size"])

    def put(self, image: KeptImage) -> bool:
        """Write one result's files, each whole or not at all; False where there is no room."""
        folder = _folder(image.inspected_at)
        if self.bytes + image.size > self._most_bytes:
            self.tidy(datetime.now(UTC))
            if self.bytes + image.size > self._most_bytes:
                return False
        self._fs.makedirs(f"{self._root}/{folder}", exist_ok=True)
        files = {_EVIDENCE: save(dict(image.evidence)), _IMAGE: image.image}
        with self._fs.transaction:
            for kind, data in files.items():
                with self._fs.open(f"{self._root}/{folder}/{image.result_id}.{kind}", "wb") as file:
                    file.write(data)
        size = sum(map(len, files.values()))
        self._sizes[folder] += size
        self.bytes += size
        return True

    def evidence(self, result_id: str, inspected_at: datetime) -> Arrays | None:
        """Return the arrays kept of a result; None where nothing is kept or it is damaged."""
        data = self._find(result_id, inspected_at, _EVIDENCE)
        try:
            return None if data is None else load(data)
        except SafetensorError as error:
            _log.warning("the evidence of result %s is damaged: %s", result_id, error)
            return None

    def image(self, result_id: str, inspected_at: datetime) -> bytes | None:
        """Return the image of a result as it was sent; None where it is not kept."""
        return self._find(result_id, inspected_at, _IMAGE)

    def pin(self, result_id: str, inspected_at: datetime) -> bool:
        """Keep a result for good; False where it was not kept."""
        self._fs.makedirs(f"{self._root}/{_CASES}", exist_ok=True)
        stem = f"{self._root}/{_folder(inspected_at)}/{result_id}"
        pinned = f"{self._root}/{_CASES}/{result_id}"
        for kind in (_IMAGE, _EVIDENCE):
            with contextlib.suppress(FileNotFoundError):
                self._fs.mv(f"{stem}.{kind}", f"{pinned}.{kind}")
        return bool(self._fs.exists(f"{pinned}.{_EVIDENCE}"))

    def put_mask(self, result_id: str, mask: bytes) -> bool:
        """Write the mask of a pinned result, whole or not at all, over the one before.

        False where its image is not pinned.
        """
        pinned = f"{self._root}/{_CASES}/{result_id}"
        if not self._fs.exists(f"{pinned}.{_IMAGE}"):
            return False
        # A file of its own, renamed at the end: who reads meanwhile has the one before, and of two
        # who write at once the last wins. `autocommit` keeps it out of a transaction of `put`,
        # which another thread may be in.
        part = f"{pinned}.{secrets.token_hex(4)}.part"
        try:
            with self._fs.open(part, "wb", autocommit=True) as file:
                file.write(mask)
            self._fs.mv(part, f"{pinned}.{_MASK}")
        except OSError:
            with contextlib.suppress(OSError):
                self._fs.rm_file(part)
            raise
        return True

    def mask(self, result_id: str) -> bytes | None:
        """Return the mask of a result; None where nobody marked anything."""
        with contextlib.suppress(FileNotFoundError):
            content: bytes = self._fs.cat_file(self._mask_path(result_id))
            return content
        return None

    def has_mask(self, result_id: str) -> bool:
        """Whether somebody marked pixels of a result."""
        return bool(self._fs.exists(self._mask_path(result_id)))

    def remove_mask(self, result_id: str) -> bool:
        """Remove the mask of a result; False where there is none."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._mask_path(result_id))
            return True
        return False

    def tidy(self, now: datetime) -> int:
        """Let go what is too old or too much, the oldest first; returns how many folders went."""
        oldest = _folder(now - timedelta(days=self.config.days))
        gone = 0
        for folder in sorted(self._sizes):
            too_much = self.bytes > 0.95 * self._most_bytes
            if folder >= oldest and not (too_much and folder != _folder(now)):
                break
            with contextlib.suppress(FileNotFoundError):  # all of it was pinned
                self._fs.rm(f"{self._root}/{folder}", recursive=True)
            self.bytes -= self._sizes.pop(folder)
            gone += 1
        return gone

    @property
    def _most_bytes(self) -> float:
        return self.config.megabytes * 1e6

    def _count(self, path: str, size: int) -> None:
        folder = path.rpartition("/")[0].rpartition("/")[2]
        if folder != _CASES:
            self._sizes[folder] += size
            self.bytes += size

    def _mask_path(self, result_id: str) -> str:
        return f"{self._root}/{_CASES}/{result_id}.{_MASK}"

    def _find(self, result_id: str, inspected_at: datetime, kind: str) -> bytes | None:
        for folder in (_CASES, _folder(inspected_at)):
            with contextlib.suppress(FileNotFoundError):
                content: bytes = self._fs.cat_file(f"{self._root}/{folder}/{result_id}.{kind}")
                return content
        return None


@dataclass(frozen=True, slots=True)
class _Waiting:
    result_id: str
    make: Callable[[], KeptImage]
    size: int


class Keeper:
    """Takes what is to be kept without waiting, and writes it in a thread.

    `lost()` is told of each that could not be kept: the queue was full, or the place.
    """

    def __init__(self, store: KeptStore, lost: Callable[[], Any]) -> None:
        self.store = store
        self._lost = lost
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._closing = False
        self._writing: _Waiting | None = None
        self._thread = threading.Thread(target=self._work, name="keep", daemon=True)
        self._thread.start()

    def keep(self, result_id: str, make: Callable[[], KeptImage], size: int) -> bool:
        """Queue what `make` will return, of about `size` bytes; False where the queue is full."""
        with self._changed:
            if self._closing or self._waiting_bytes + size > _MOST_WAITING_BYTES:
                self._lost()
                return False
            self._waiting.append(_Waiting(result_id, make, size))
            self._waiting_bytes += size
            self._changed.notify_all()
        return True

    def flush(self) -> None:
        """Wait until all that was queued is written."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and self._writing is None)

    def pin(self, result_id: str, inspected_at: datetime) -> bool:
        """Keep a result for good, once it is written; False where it was not kept."""
        self.wait_for(result_id, _PIN_S)
        return self.store.pin(result_id, inspected_at)

    def wait_for(self, result_id: str, limit_s: float) -> None:
        """Wait until a result is no longer queued, so long at the most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_waiting(result_id), limit_s)

    def _is_waiting(self, result_id: str) -> bool:
        written = [self._writing] if self._writing is not None else []
        return any(item.result_id == result_id for item in (*written, *self._waiting))

    def close(self) -> None:
        """Write what waits and stop."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(10.0)

    def _work(self) -> None:
        while self._work_once():
            # Nothing is held here: what `make` holds may be large, and it may be long to the next.
            pass

    def _work_once(self) -> bool:
        """Wait for something to write, or for the time to tidy; False when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing, _TIDY_S)
            if not self._waiting and self._closing:
                return False
            self._writing = item = self._waiting.popleft() if self._waiting else None
        try:
            if item is None:
                self.store.tidy(datetime.now(UTC))
            elif not self.store.put(item.make()):
                self._lost()
        except OSError as error:
            _log.warning("cannot keep an image: %s", error)
            self._lost()
        finally:
            with self._changed:
                self._waiting_bytes -= 0 if item is None else item.size
                self._writing = None
                self._changed.notify_all()
        return True


def _folder(moment: datetime) -> str:
    """Ten minutes, in a name that sorts by time."""
    return moment.astimezone(UTC).strftime("%Y%m%d-%H%M")[:-1]
