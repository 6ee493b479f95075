"""From a record to a report: for the service, one at a time beside its work, and for commands."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime

from anomaly.errors import AnomalyError
from record.audit import Audit
from record.keep import KeptStore
from record.result import Result
from record.statistics import Worst, statistics_of
from record.store import Filter, Store
from service.errors import ReportBusy
from service.evidence import StoredEvidence
from service.heatmaps import Heatmaps
from service.report.changes import Changes, changes_in
from service.report.figures import Figures, figures_of
from service.report.page import Contents, Picture, page_of
from service.report.period import Period
from service.report.wording import Language, Wording
from service.results.evidence import thumbnail_of
from service.results.recording import Recording
from service.workers import WorkTooSlow

_MOST_PICTURES = 12
_SIDE_PX = 320  # the longer side of a picture
_MOST_WAITING = 4  # reports at once, the one that is made included


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRequest:
    """Of what a report is wanted, and in which language."""

    period: Period
    camera: str | None = None
    lot: str | None = None
    language: Language = "en"

    @property
    def filter(self) -> Filter:
        """What the store is asked."""
        since, until = self.period.since, self.period.until
        return Filter(camera=self.camera, lot=self.lot, since=since, until=until)


@dataclass(slots=True)
class Reports:
    """Makes reports while the service works: one after the other, and few may wait."""

    recording: Recording
    heatmaps: Heatmaps
    audit: Audit | None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _waiting: int = 0

    async def make(self, request: ReportRequest) -> str:
        """Make a report's page. Raises `ReportBusy` or `StoreError`."""
        if self._waiting >= _MOST_WAITING:
            raise ReportBusy(f"{self._waiting} reports are being made; try again shortly")
        self._waiting += 1
        try:
            async with self._turn:
                return await self._make(request)
        finally:
            self._waiting -= 1

    async def _make(self, request: ReportRequest) -> str:
        # A connection and thread of its own: what the line asks for never waits for a report.
        figures = await self.recording.statistics.ask(lambda store: _figures(store, request))
        changes = await asyncio.to_thread(changes_in, self.audit, request.period)
        pictures: list[Picture] = []
        for worst in figures.worst:
            if len(pictures) == _MOST_PICTURES:
                break
            if jpeg := await self._drawn(worst.result):
                pictures.append(Picture(worst, jpeg))
        return await asyncio.to_thread(_page, request, figures, changes, pictures)

    async def _drawn(self, result: Result) -> bytes | None:
        image = await self.recording.image(result)
        [evidence] = await self.recording.evidence([result])
        if image is None or evidence is None:
            return None
        source = evidence.placement.source
        try:
            return await self.heatmaps.draw(
                lambda: thumbnail_of(image, evidence, _SIDE_PX, result), source
            )
        except (AnomalyError, WorkTooSlow):  # damaged since it was kept: the next one is shown
            return None


def report_of(
    store: Store, images: KeptStore | None, audit: Audit | None, request: ReportRequest
) -> str:
    """Make a report's page here and now. Raises `StoreError`."""
    figures = _figures(store, request)
    pictures: list[Picture] = []
    for worst in figures.worst if images is not None else ():
        if len(pictures) == _MOST_PICTURES:
            break
        if images is not None and (picture := _picture(images, worst)):
            pictures.append(picture)
    return _page(request, figures, changes_in(audit, request.period), pictures)


def _picture(images: KeptStore, worst: Worst) -> Picture | None:
    result = worst.result
    image = images.image(result.result_id, result.inspected_at)
    arrays = images.evidence(result.result_id, result.inspected_at)
    if image is None or arrays is None:
        return None
    try:
        evidence = StoredEvidence.of_arrays(arrays)
        return Picture(worst, thumbnail_of(image, evidence, _SIDE_PX, result))
    except AnomalyError:  # damaged since it was kept: the next one is shown
        return None


def _figures(store: Store, request: ReportRequest) -> Figures:
    with statistics_of(store, request.filter) as statistics:
        return figures_of(statistics, request.period.zone)


def _page(
    request: ReportRequest, figures: Figures, changes: Changes, pictures: list[Picture]
) -> str:
    contents = Contents(
        period=request.period,
        camera=request.camera,
        lot=request.lot,
        made_at=datetime.now(UTC),
        figures=figures,
        changes=changes,
        pictures=tuple(pictures),
    )
    return page_of(contents, Wording(request.language, request.period.zone))
