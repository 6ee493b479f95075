"""The service's side of the record: what was found goes in, results come out. See `record`."""

import asyncio
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from record.audit import Audit
from record.journal import Journal
from record.keep import KeepConfig, Keeper, KeptImage, KeptStore
from record.lock import FileLock, LockHeld
from record.store import Filter, Page, Store, StoreError, unusable
from record.urls import without_password
from record.writer import Writer
from service.errors import AuditUnwritable, FeedbackContradicts, ResultUnknown, StartError
from service.feedback import Change, FeedbackIn, change_of
from service.inference.inspection import Inspection, Source
from service.logs import ACTOR
from service.metrics import Metrics
from service.results.idempotency import Answered, RepeatKey
from service.schemas import ScoreOut, ScoreQuery
from service.settings import Settings

T = TypeVar("T")
NOTHING_KEPT = KeepConfig("none")
_LOOKUP_S = 1.0  # a database that hangs holds up a repeated request no longer


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
                f"results cannot be kept in {folder.absolute()} ({error.strerror or error}); make "
                "it writable, choose another place with MASKLINE_RECORD_DIR, or keep none with "
                "MASKLINE_RECORD=off",
            ) from error
        self._writer = Writer(
            journal, self._open, folder / "refused.jsonl", record_days, metrics.record_refused.inc
        )
        self._audit = Audit(folder)
        self._speaking = asyncio.Lock()
        self._reader: Store | None = None
        self._pool = ThreadPoolExecutor(1, "results")
        self._metrics = metrics
        metrics.record_away.set_function(lambda: float(self._writer.is_away))
        metrics.record_behind.set_function(lambda: self._writer.bytes_behind)

    def keep(
        self,
        inspection: Inspection,
        query: ScoreQuery,
        *,
        timings: dict[str, float],
        image_sha256: str,
        repeat: RepeatKey | None = None,
    ) -> None:
        """Keep one result before it is answered, and its image if that is wanted.

        A full disk is counted, never an error.
        """
        model, detection, now = inspection.model, inspection.detection, datetime.now(UTC)
        is_kept = self._keep_image(inspection, now)
        row = {
            "result_id": inspection.result_id,
            "idempotency_key": None if repeat is None else repeat.scoped,
            "fingerprint": None if repeat is None else repeat.fingerprint,
            "inspected_at": now,
            "triggered_at": query.triggered_at,
            "model": model.name,
            "version": model.bundle.version,
            "digest": model.bundle.digest,
            "calibration": model.judged_by(query.camera),
            "kept": is_kept,
            "part_id": query.part_id,
            "camera": query.camera,
            "lot": query.lot,
            "recipe": query.recipe,
            "verdict": detection.verdict,
            "calibrated_verdict": inspection.calibrated_verdict,
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

    def _keep_image(self, inspection: Inspection, now: datetime) -> bool:
        keeper = self._keeper
        # What a request's own threshold lets pass is kept all the same where the calibration
        # rejects it.
        verdict, calibrated_verdict = inspection.detection.verdict, inspection.calibrated_verdict
        if keeper is None or not keeper.store.config.wants(
            inspection.result_id, calibrated_verdict if verdict == "OK" else verdict
        ):
            return False

        def make() -> KeptImage:
            return KeptImage(inspection.result_id, now, inspection.encoded, inspection.evidence())

        return keeper.keep(inspection.result_id, make, inspection.size)

    async def repeated(self, scoped: str) -> Answered | None:
        """Look up what was answered under an idempotency key, in its scope.

        Where the store cannot be asked nothing is returned, and a key that it alone may know is
        inspected anew: the line goes on, and both results are stored.
        """
        if self._writer.is_away:
            return None
        try:
            async with asyncio.timeout(_LOOKUP_S):
                row = await self._read(lambda store: store.repeated(scoped))
        except (StoreError, TimeoutError):
            return None
        return None if row is None else Answered(row["fingerprint"] or "", ScoreOut.of_row(row))

    async def page(self, filter_: Filter, *, cursor: str | None, limit: int) -> Page:
        """Read a page of results. Raises `StoreError`."""
        return await self._read(lambda store: store.page(filter_, cursor=cursor, limit=limit))

    async def find(self, result_id: str) -> dict[str, Any]:
        """Read one result with its feedback. Raises `ResultUnknown` or `StoreError`."""

        def ask(store: Store) -> dict[str, Any] | None:
            row = store.find(result_id)
            return None if row is None else row | {"feedback": store.feedback_on(result_id)}

        # An id is letters and digits: anything else is no text that every database takes.
        is_id = result_id.isascii() and result_id.isalnum()
        row_found = await self._read(ask) if is_id else None
        if row_found is None:
            raise ResultUnknown(f"there is no result {result_id!r}; it may not be stored yet")
        return row_found

    async def image(self, row: dict[str, Any]) -> bytes | None:
        """Read the image of a row of the store, if it is there."""
        if (store := self._folder_of(row)) is None:
            return None
        return await asyncio.to_thread(store.image, row["result_id"], row["inspected_at"])

    async def evidence(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, np.ndarray] | None]:
        """Read the evidence of rows of the store, as far as it is there."""

        def read() -> list[dict[str, np.ndarray] | None]:
            stores = [self._folder_of(row) for row in rows]
            return [
                None if store is None else store.evidence(row["result_id"], row["inspected_at"])
                for row, store in zip(rows, stores, strict=True)
            ]

        return await asyncio.to_thread(read)

    async def kept_normals(
        self, filter_: Filter, limit: int, thresholds: Mapping[str, float]
    ) -> list[dict[str, Any]]:
        """Read kept results that count as normal (`Store.kept_normals`). Raises `StoreError`."""
        return await self._read(lambda store: store.kept_normals(filter_, limit, thresholds))

    async def defects(self, model: str) -> list[dict[str, Any]]:
        """Read all results that somebody called a defect, kept or not. Raises `StoreError`."""
        return await self._read(lambda store: store.defects(model))

    async def last_feedback(self) -> int:
        """Read the number of what was said last of any result. Raises `StoreError`."""
        return await self._read(lambda store: store.last_feedback())

    async def kept_latest(self, model: str, limit: int) -> list[dict[str, Any]]:
        """Read the newest kept results. Raises `StoreError`."""
        return await self._read(lambda store: store.kept_latest(model, limit))

    def _folder_of(self, row: dict[str, Any]) -> KeptStore | None:
        return self._keeper.store if self._keeper is not None and row["kept"] else None

    async def say(
        self, result_id: str, feedback: FeedbackIn, by: str | None, *, is_admin: bool
    ) -> dict[str, Any]:
        """Store what somebody found who looked at the part.

        What changes the cases that a new version is held against is sealed into the audit trail
        first; only an admin takes a confirmed defect back. Raises `FeedbackContradicts`,
        `RoleInsufficient`, `ResultUnknown`, `AuditUnwritable` or `StoreError`.
        """
        is_there = await self._pin(await self.find(result_id))
        async with self._speaking:  # so that what was said before is what is sealed as such
            result = await self.find(result_id)
            change = change_of(result, feedback.kind, is_admin=is_admin, is_there=is_there)
            if change.is_sealed:
                await self._seal(result, change)
            if change.is_given_up:
                await self._read(lambda store: store.nothing_kept(result_id))
            row = feedback.model_dump() | {"result_id": result_id, "author": by}
            row["created_at"] = datetime.now(UTC)
            stored = await self._read(lambda store: store.add_feedback(row, after=change.after))
        if stored is None:
            raise FeedbackContradicts(
                "somebody else spoke of this result just now; look at it again"
            )
        return stored

    async def _pin(self, result: dict[str, Any]) -> bool:
        """Keep what is kept of a result for good; False where it is gone."""
        if self._keeper is None or not result["kept"]:
            return True  # there is nothing that could be gone
        pin = self._keeper.pin
        return await asyncio.to_thread(pin, result["result_id"], result["inspected_at"])

    async def _seal(self, result: dict[str, Any], change: Change) -> None:
        details = {"model": result["model"], **change.details}
        actor = ACTOR.get()
        try:
            await asyncio.to_thread(
                self._audit.add, "feedback", result["result_id"], actor, **details
            )
        except OSError as error:
            raise AuditUnwritable(
                f"the audit trail cannot be written ({error.strerror}), so nothing is changed"
            ) from error

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

    async def _read(self, ask: Callable[[Store], T]) -> T:
        def work() -> T:
            if self._reader is None:
                self._reader = self._open()
            return ask(self._reader)

        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _hold(folder: Path) -> FileLock:
    """Hold the journal for as long as this process lives: two would delete each other's rows."""
    (folder / "journal").mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "journal/lock")
    try:
        lock.acquire()
    except LockHeld as error:
        raise StartError(
            "record_in_use",
            f"another service writes results there ({error}); stop it, or give this one a "
            "folder of its own "
            "with MASKLINE_RECORD_DIR (services may share a database by MASKLINE_DATABASE_URL)",
        ) from error
    return lock


def _keeper(place: str, config: KeepConfig, metrics: Metrics) -> Keeper | None:
    if config.policy == "none":
        return None
    try:
        store = KeptStore(place, config)
    except (ValueError, ImportError) as error:
        reason = str(error).replace(place, without_password(place))
        raise StartError(
            "settings_invalid", f"MASKLINE_KEEP_URL {without_password(place)!r}: {reason}"
        ) from error
    metrics.kept_bytes.set_function(lambda: store.bytes)
    return Keeper(store, metrics.kept_lost.inc)


def audit_of(settings: Settings) -> Audit | None:
    """Return the audit trail, which lies beside the results; None where nothing is recorded."""
    return None if settings.record == "off" else Audit(settings.record_dir)


def image_digest(source: Source) -> str:
    """SHA-256 of an image as sent, or of its pixels where the caller decoded it."""
    data = source if isinstance(source, bytes) else source.pixels.tobytes()
    return hashlib.sha256(data).hexdigest()
