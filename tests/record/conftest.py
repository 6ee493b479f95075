"""A real PostgreSQL for the tests."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.postgres import Postgres, binaries


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    found = binaries()
    if found is None:
        pytest.skip("needs a PostgreSQL server: install Debian's package postgresql")
    folder = Path(tempfile.mkdtemp(prefix="maskline-postgres-"))
    server = Postgres(found, folder)
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'results.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database("maskline")
