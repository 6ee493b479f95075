"""Brings a database's tables to this version's form."""

import threading
from importlib import resources

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

_MIGRATING = threading.Lock()  # Alembic keeps its context in a module
_HEAD = "head"
_MIGRATION_LOCK = 0x6D61736B  # any number that nobody else locks: "mask"


def migrate(engine: Engine) -> None:
    """Migrate the tables to this version, whole or not at all; other processes wait meanwhile."""
    try:
        with _MIGRATING, engine.begin() as connection:
            _upgrade(connection)
    except BaseException:
        engine.dispose()  # whoever tries again every few seconds would gather connections
        raise


def is_current(engine: Engine) -> bool:
    """Whether the tables have this version's form; nothing is changed."""
    with engine.connect() as connection:
        return _is_at_head(connection, _config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("record") / "migrations"))
    return config


def _is_at_head(connection: Connection, config: Config) -> bool:
    revision = MigrationContext.configure(connection).get_current_revision()
    return revision == ScriptDirectory.from_config(config).get_revision(_HEAD).revision


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    if _is_at_head(connection, config):
        return
    if connection.dialect.name == "sqlite":
        # Its driver begins no transaction for a table's change.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
    command.upgrade(config, _HEAD)
