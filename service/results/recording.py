"""The service's side of the record: what was found goes in, results come out. See `record`."""

import asyncio
import hashlib
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from record.audit import Audit
from record.journal import Journal
from record.keep import KeepConfig, Keeper, KeptImage, KeptStore
from record.lock import FileLock, LockHeld
from record.result import Discussed, Result
from record.store import Store, StoreError, unusable
from record.urls import without_password
from record.writer import Writer
from service.errors import ResultUnknown, StartError
from service.events import Publish, unheard
from service.evidence import StoredEvidence
from service.inference.inspection import Inspection, Source
from service.metrics import Metrics
from service.results.feedback_log import FeedbackLog
from service.results.idempotency import Answered, RepeatKey
from service.results.masks import Masks
from service.results.reader import ResultReader
from service.results.review_queue import ReviewQueue
from service.schemas.scoring import ScoreOut, ScoreQuery
from service.settings import Settings

NOTHING_KEPT = KeepConfig("none")
_LATEST = 256  # inspections
_STORED_S, _AGAIN_S = 2.0, 0.05  # longest wait for one to be stored, and between looks
_LOOKUP_S = 1.0  # a database that hangs holds up a repeated request no longer


class Recording:
    """Writes results in microseconds; `reader` reads them, `feedback` takes what people say.

    `masks` has the pixels that they mark.
    `review` hands out what they should look at; `publish` is told who looks at what.
    `statistics` reads them for reports.
    `audit` is the trail of changes beside them.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str | None,
        metrics: Metrics,
        *,
        keep: KeepConfig = NOTHING_KEPT,
        keep_url: str | None = None,
        record_days: float = math.inf,
        publish: Publish = unheard,
    ) -> None:
        url = database_url or f"sqlite:///{folder.absolute() / 'results.db'}"

        def open_store() -> Store:
            return Store.open(url)

        if problem := unusable(url):
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
            journal,
            open_store,
            folder / "refused.jsonl",
            keep_days=record_days,
            on_refused=metrics.record_refused.inc,
        )
        self.reader = ResultReader(open_store)
        self.statistics = ResultReader(open_store)  # takes seconds: nothing else waits for it
        self.audit = Audit(folder)
        self.feedback = FeedbackLog(self.reader, self._keeper, self.audit, publish=publish)
        self.masks = Masks(self._keeper)
        self.review = ReviewQueue(self.reader, publish)
        self._metrics = metrics
        self._latest: deque[str] = deque(maxlen=_LATEST)  # that may not be stored yet
        metrics.record_away.set_function(lambda: float(self._writer.is_away))
        metrics.record_behind.set_function(lambda: self._writer.bytes_behind)

    def keep(
        self,
        inspection: Inspection,
        query: ScoreQuery,
        *,
        inspected_at: datetime,
        timings: dict[str, float],
        image_sha256: str,
        repeat: RepeatKey | None = None,
    ) -> bool:
        """Keep one result before it is answered, and its image if that is wanted: return whether.

        A full disk is counted, never an error.
        """
        model, detection = inspection.model, inspection.detection
        is_kept = self._keep_image(inspection, inspected_at)
        self._latest.append(inspection.result_id)
        result = Result(
            result_id=inspection.result_id,
            idempotency_key=None if repeat is None else repeat.scoped,
            fingerprint=None if repeat is None else repeat.fingerprint,
            inspected_at=inspected_at,
            triggered_at=query.triggered_at,
            model=model.name,
            version=model.bundle.version,
            digest=model.bundle.digest,
            calibration=model.judged_by(query.camera),
            kept=is_kept,
            part_id=query.part_id,
            camera=query.camera,
            lot=query.lot,
            program=query.program,
            verdict=detection.verdict,
            calibrated_verdict=inspection.calibrated_verdict,
            is_anomalous=detection.is_anomalous,
            score=detection.pred_score,
            threshold=detection.threshold,
            p_value=detection.p_value,
            score_std=detection.score_std,
            regions=[asdict(region) for region in detection.regions],
            timings=dict(timings),
            image_sha256=image_sha256,
        )
        if not self._writer.keep(result):
            self._metrics.record_lost.inc()
        return is_kept

    def _keep_image(self, inspection: Inspection, inspected_at: datetime) -> bool:
        keeper = self._keeper
        # What a request's own threshold lets pass is kept all the same where the calibration
        # rejects it.
        verdict, calibrated_verdict = inspection.detection.verdict, inspection.calibrated_verdict
        if keeper is None or not keeper.store.config.wants(
            inspection.result_id, calibrated_verdict if verdict == "OK" else verdict
        ):
            return False

        def make() -> KeptImage:
            return KeptImage(
                inspection.result_id,
                inspected_at,
                inspection.encoded,
                inspection.evidence().arrays(),
            )

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
                result = await self.reader.repeated(scoped)
        except (StoreError, TimeoutError):
            return None
        if result is None:
            return None
        return Answered(result.fingerprint or "", ScoreOut.of_result(result))

    async def find(self, result_id: str) -> Discussed:
        """Read one result with its feedback; of one that was just inspected, once it is stored.

        Whoever hears of an inspection asks for its picture at once. Raises `ResultUnknown` or
        `StoreError`.
        """
        until = time.monotonic() + _STORED_S
        while True:
            try:
                discussed = await self.reader.find(result_id)
            except ResultUnknown:
                if result_id not in self._latest or time.monotonic() > until:
                    raise
                await asyncio.sleep(_AGAIN_S)
                continue
            if self._keeper is not None and result_id in self._latest:
                await asyncio.to_thread(self._keeper.wait_for, result_id, _STORED_S)
            return discussed

    async def image(self, result: Result) -> bytes | None:
        """Read the image of a result, if it is there."""
        if (store := self._folder_of(result)) is None:
            return None
        return await asyncio.to_thread(store.image, result.result_id, result.inspected_at)

    async def evidence(self, results: Sequence[Result]) -> list[StoredEvidence | None]:
        """Read the evidence on results, as far as it is there."""
        return await asyncio.to_thread(lambda: [self._evidence(result) for result in results])

    def _evidence(self, result: Result) -> StoredEvidence | None:
        store = self._folder_of(result)
        arrays = None if store is None else store.evidence(result.result_id, result.inspected_at)
        return None if arrays is None else StoredEvidence.of_arrays(arrays)

    def _folder_of(self, result: Result) -> KeptStore | None:
        return self._keeper.store if self._keeper is not None and result.kept else None

    def close(self) -> None:
        """Bring over what waits, as far as it goes quickly."""
        self._writer.close()
        self.reader.close()
        self.statistics.close()
        if self._keeper is not None:
            self._keeper.close()
        self._lock.release()


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
