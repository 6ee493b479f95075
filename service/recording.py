"""The service's side of the record: what was found goes in, results come out. See `record`."""

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from record.audit import Audit
from record.journal import Journal
from record.keep import KeepConfig, Keeper, Kept, KeptStore
from record.lock import FileLock, LockHeld
from record.store import Filter, Page, Store, StoreError, unusable
from record.writer import Writer
from service.errors import FeedbackContradicts, ResultUnknown, StartError
from service.found import Inspection, Source
from service.metrics import Metrics
from service.schemas import FeedbackIn, ScoreOut, ScoreQuery
from service.settings import Settings

T = TypeVar("T")
NOTHING_KEPT = KeepConfig("none")
# What may be said of a result, by its verdict: WARN lets a part pass, and asks for a look.
_SAYABLE: dict[str, tuple[str, ...]] = {
    "OK": ("confirmed_good", "missed_defect"),
    "WARN": ("confirmed_good", "missed_defect"),
    "NG": ("false_alarm", "confirmed_defect"),
}
_LOOKUP_S = 1.0  # a database that hangs holds up a repeated request no longer
_REMEMBERED = 10_000  # answers by idempotency key, for repeats that come before the store has them


class Recording:
    """Writes results in microseconds and reads them in a thread of its own."""

    def __init__(
        self,
        folder: Path,
        database_url: str | None,
        metrics: Metrics,
        keep: KeepConfig = NOTHING_KEPT,
        keep_url: str | None = None,
        record_days: float = math.inf,
    ) -> None:
        self._url = database_url or f"sqlite:///{folder.absolute() / 'results.db'}"
        if problem := unusable(self._url):
            raise StartError("settings_invalid", f"MASKLINE_DATABASE_URL: {problem}")
        try:
            self._lock = _hold(folder)
            journal = Journal(folder / "journal")
            self._keeper = _keeper(keep_url or str(folder.absolute() / "kept"), keep, metrics)
        except OSError as error:
            raise StartError(
                "record_unusable",
                f"results cannot be kept in {folder.absolute()} ({error.strerror or error}); make it "
                "writable, choose another place with MASKLINE_RECORD_DIR, or keep none with "
                "MASKLINE_RECORD=off",
            ) from error
        self._writer = Writer(
            journal, self._open, folder / "refused.jsonl", record_days, metrics.record_refused.inc
        )
        self._reader: Store | None = None
        self._pool = ThreadPoolExecutor(1, "results")
        self._metrics = metrics
        self._answers: OrderedDict[str, ScoreOut] = OrderedDict()
        self._underway: dict[str, asyncio.Future[ScoreOut]] = {}
        metrics.record_away.set_function(lambda: float(self._writer.is_away))
        metrics.record_behind.set_function(lambda: self._writer.bytes_behind)

    def keep(
        self,
        found: Inspection,
        query: ScoreQuery,
        *,
        timings: dict[str, float],
        image_sha256: str,
    ) -> None:
        """Keep one result before it is answered, and its image if that is wanted.

        A full disk is counted, never an error.
        """
        model, detection, now = found.model, found.detection, datetime.now(UTC)
        kept = self._keep_image(found, now)
        row = {
            "result_id": found.result_id,
            "idempotency_key": query.idempotency_key,
            "inspected_at": now,
            "triggered_at": query.triggered_at,
            "model": model.name,
            "version": model.bundle.version,
            "digest": model.bundle.digest,
            "calibration": model.judged_by(query.camera),
            "kept": kept,
            "part_id": query.part_id,
            "camera": query.camera,
            "lot": query.lot,
            "recipe": query.recipe,
            "verdict": detection.verdict,
            "is_anomalous": detection.is_anomalous,
            "score": detection.pred_score,
            "threshold": detection.threshold,
            "p_value": detection.p_value,
            "score_std": detection.score_std,
            "regions": [asdict(region) for region in detection.regions],
            "timings": dict(timings),
            "image_sha256": image_sha256,
        }
        if not self._writer.keep(row):
            self._metrics.record_lost.inc()

    def _keep_image(self, found: Inspection, now: datetime) -> bool:
        keeper = self._keeper
        if keeper is None or not keeper.store.config.wants(
            found.result_id, found.detection.verdict
        ):
            return False

        def make() -> Kept:
            return Kept(found.result_id, now, found.encoded, found.evidence())

        return keeper.keep(found.result_id, make, found.size)

    async def once(self, key: str | None, answer: Callable[[], Awaitable[ScoreOut]]) -> ScoreOut:
        """Answer, unless this idempotency key was answered before: then with the first result.

        A repeat has no heatmap. Where the store cannot be asked, a key that it alone may know is inspected
        anew: the line goes on, and the store takes the first of the two.
        """
        if key is None:
            return await answer()
        while (underway := self._underway.get(key)) is not None:
            await asyncio.wait([underway])  # the first may fail: then this one is the first
        first = self._answers.get(key) or await self._stored(key)
        if first is not None:
            return first
        mine = self._underway[key] = asyncio.get_running_loop().create_future()
        try:
            found = await answer()
            self._remember(key, found)
            return found
        finally:
            del self._underway[key]
            mine.cancel()

    async def page(self, wanted: Filter, *, cursor: str | None, limit: int) -> Page:
        """Read a page of results. Raises `StoreError`."""
        return await self._read(lambda store: store.page(wanted, cursor=cursor, limit=limit))

    async def find(self, result_id: str) -> dict[str, Any]:
        """Read one result with its feedback. Raises `ResultUnknown` or `StoreError`."""

        def ask(store: Store) -> dict[str, Any] | None:
            row = store.find(result_id)
            return None if row is None else row | {"feedback": store.feedback_on(result_id)}

        found = await self._read(ask)
        if found is None:
            raise ResultUnknown(f"there is no result {result_id!r}; it may not be stored yet")
        return found

    async def image(self, row: dict[str, Any]) -> bytes | None:
        """Read the image of a row of the store, if it is there."""
        if (store := self._kept(row)) is None:
            return None
        return await asyncio.to_thread(store.image, row["result_id"], row["inspected_at"])

    async def evidence(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, np.ndarray] | None]:
        """Read the evidence of rows of the store, as far as it is there."""

        def read() -> list[dict[str, np.ndarray] | None]:
            stores = [self._kept(row) for row in rows]
            return [
                None if store is None else store.evidence(row["result_id"], row["inspected_at"])
                for row, store in zip(rows, stores, strict=True)
            ]

        return await asyncio.to_thread(read)

    async def kept_normals(self, wanted: Filter, limit: int) -> list[dict[str, Any]]:
        """Read kept results that count as normal. Raises `StoreError`."""
        return await self._read(lambda store: store.kept_normals(wanted, limit))

    async def kept_defects(self, model: str, limit: int) -> list[dict[str, Any]]:
        """Read kept results that somebody called a defect. Raises `StoreError`."""
        return await self._read(lambda store: store.kept_defects(model, limit))

    async def kept_latest(self, model: str, limit: int) -> list[dict[str, Any]]:
        """Read the newest kept results. Raises `StoreError`."""
        return await self._read(lambda store: store.kept_latest(model, limit))

    def _kept(self, row: dict[str, Any]) -> KeptStore | None:
        return self._keeper.store if self._keeper is not None and row["kept"] else None

    async def say(self, result_id: str, said: FeedbackIn, by: str | None) -> dict[str, Any]:
        """Store what somebody found who looked at the part.

        Raises `FeedbackContradicts`, `ResultUnknown` or `StoreError`.
        """
        result = await self.find(result_id)
        if said.kind not in _SAYABLE[result["verdict"]]:
            raise FeedbackContradicts(
                f"of a result that was {result['verdict']} may be said: "
                f"{', '.join(_SAYABLE[result['verdict']])}"
            )
        if self._keeper is not None and result["kept"]:
            await asyncio.to_thread(self._keeper.pin, result_id, result["inspected_at"])
        row = said.model_dump() | {"result_id": result_id, "said_by": by}
        row["said_at"] = datetime.now(UTC)
        return await self._read(lambda store: store.add_feedback(row))

    def close(self) -> None:
        """Bring over what waits, as far as it goes quickly."""
        self._writer.close()
        self._pool.shutdown()
        if self._keeper is not None:
            self._keeper.close()
        if self._reader is not None:
            self._reader.close()
        self._lock.release()

    def _open(self) -> Store:
        return Store.open(self._url)

    async def _stored(self, key: str) -> ScoreOut | None:
        if self._writer.is_away:
            return None
        try:
            async with asyncio.timeout(_LOOKUP_S):
                row = await self._read(lambda store: store.repeated(key))
        except (StoreError, TimeoutError):
            return None
        return None if row is None else ScoreOut.of_row(row)

    async def _read(self, ask: Callable[[Store], T]) -> T:
        def work() -> T:
            if self._reader is None:
                self._reader = self._open()
            return ask(self._reader)

        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _remember(self, key: str, found: ScoreOut) -> None:
        self._answers[key] = found.model_copy(update={"heatmap": None})
        if len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)


def _hold(folder: Path) -> FileLock:
    """Hold the journal for as long as this process lives: two would delete each other's rows."""
    (folder / "journal").mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "journal/lock")
    try:
        lock.acquire()
    except LockHeld as error:
        raise StartError(
            "record_in_use",
            f"another service writes results there ({error}); stop it, or give this one a folder of its own "
            "with MASKLINE_RECORD_DIR (services may share a database by MASKLINE_DATABASE_URL)",
        ) from error
    return lock


def _keeper(place: str, config: KeepConfig, metrics: Metrics) -> Keeper | None:
    if config.policy == "none":
        return None
    try:
        store = KeptStore(place, config)
    except (ValueError, ImportError) as error:
        raise StartError("settings_invalid", f"MASKLINE_KEEP_URL {place!r}: {error}") from error
    metrics.kept_bytes.set_function(lambda: store.bytes)
    return Keeper(store, metrics.kept_lost.inc)


def audit_of(settings: Settings) -> Audit | None:
    """Return the audit trail, which lies beside the results; None where nothing is recorded."""
    return None if settings.record == "off" else Audit(settings.record_dir)


def digest_of(source: Source) -> str:
    """SHA-256 of an image as sent, or of its pixels where the caller decoded it."""
    data = source if isinstance(source, bytes) else source.pixels.tobytes()
    return hashlib.sha256(data).hexdigest()
