"""A store that is only read, beside the service that writes it: for commands."""

from typing import Any

from sqlalchemy import create_engine, event
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from record.migrate import is_current
from record.store import Store, StoreError, unusable
from record.urls import without_password

_BUSY_S = 10.0


def open_to_read(url: str) -> Store:
    """Connect to a database that another process writes; nothing in it can be changed.

    Tables of another version are refused, not migrated. Raises `StoreError`.
    """
    address = without_password(url)
    if problem := unusable(url):
        raise StoreError(f"the database {address} cannot be opened: {problem}")
    try:
        engine = create_engine(url, pool_pre_ping=True)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _only_read)
        current = is_current(engine)
    except (ArgumentError, SQLAlchemyError, ImportError) as error:
        reason = str(error).partition("\n")[0].replace(url, address)
        raise StoreError(f"the database {address} cannot be opened: {reason}") from error
    if not current:
        engine.dispose()
        raise StoreError(
            f"the tables of {address} are not there, or of another version of Maskline; start this "
            "version's service once, which brings them up to date"
        )
    return Store(engine)


def _only_read(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA query_only = ON")
    cursor.execute(f"PRAGMA busy_timeout = {round(1000 * _BUSY_S)}")
    cursor.close()
