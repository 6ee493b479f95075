"""The command that writes a shift report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.options import RecordDir

if TYPE_CHECKING:
    from record.keep import KeptStore
    from record.store import Store
    from service.settings import Settings

_MOMENT = "A moment, a date, 'now', or how long ago: 90min, 8h, 1d, 2w."


def report(
    since: Annotated[str, typer.Option(help=_MOMENT)] = "8h",
    until: Annotated[str, typer.Option(help=f"{_MOMENT} A date counts to its end.")] = "now",
    camera: Annotated[str | None, typer.Option(help="Parts of this camera alone.")] = None,
    lot: Annotated[str | None, typer.Option(help="Parts of this lot alone.")] = None,
    *,
    language: Annotated[Literal["en", "de"], typer.Option(help="en or de.")] = "en",
    zone: Annotated[
        str | None, typer.Option(help="Zone of the times, Europe/Berlin; default: the machine's.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    folder: RecordDir = None,
) -> None:
    """Write a period's yield, NG rate, defects, drift and changes as one page that prints."""
    from datetime import UTC, datetime

    from record.audit import Audit
    from service.report.maker import ReportRequest, report_of
    from service.report.page import MARK
    from service.report.period import period_of
    from service.run import read_settings
    from training.checkpoint import write_whole
    from training.outputs import check_own_file

    period = period_of(since, until, zone, datetime.now(UTC))
    check_own_file(out, lambda ends: MARK in ends)
    settings = read_settings(**({} if folder is None else {"record_dir": folder}))
    store = store_to_read(settings)
    request = ReportRequest(period=period, camera=camera, lot=lot, language=language)
    page = report_of(store, images_to_read(settings), Audit(settings.record_dir), request)
    store.close()
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page.encode())
    typer.echo(f"{out}: {period.since:%Y-%m-%d %H:%M} to {period.until:%Y-%m-%d %H:%M} UTC")


def store_to_read(settings: "Settings") -> "Store":
    """Open the record's database to read it, beside the service that writes it."""
    from record.reading import open_to_read
    from service.errors import NothingRecorded

    if settings.database_url is not None:
        return open_to_read(settings.database_url)
    file = settings.record_dir.absolute() / "results.db"
    if not file.is_file():
        raise NothingRecorded(
            f"there are no results in {settings.record_dir.absolute()}; name the record's folder "
            "with --folder or MASKLINE_RECORD_DIR, or its database with MASKLINE_DATABASE_URL"
        )
    return open_to_read(f"sqlite:///{file}")


def images_to_read(settings: "Settings") -> "KeptStore":
    """Return where images are kept, to read them."""
    from record.keep import KeepConfig, KeptStore
    from record.urls import without_password
    from service.errors import StartError

    place = settings.keep_url or str(settings.record_dir.absolute() / "kept")
    try:
        return KeptStore(place, KeepConfig("none"))
    except (ValueError, ImportError) as error:
        reason = str(error).replace(place, without_password(place))
        raise StartError("settings_invalid", f"MASKLINE_KEEP_URL: {reason}") from error
