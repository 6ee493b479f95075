"""A real PostgreSQL server for tests and benchmarks."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import psycopg

from bench.local import free_port

_USER = "postgres"


class Postgres:
    """A server in its own folder, on a free port; it can be stopped and started again."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries, self._folder = binaries, folder
        # PostgreSQL refuses to run as root.
        self._as = "nobody" if os.getuid() == 0 else None
        if self._as:
            shutil.chown(folder, self._as)
        self.port = free_port()
        self._run("initdb", "-D", str(folder / "data"), "-U", _USER, "-A", "trust", "-E", "UTF8")
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [
            str(self._binaries / "postgres"),
            *("-D", str(self._folder / "data"), "-p", str(self.port), "-k", str(self._folder)),
            *("-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"),
        ]
        self._process = subprocess.Popen(
            command,
            user=self._as,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
        )
        for _ in range(300):
            try:
                psycopg.connect(self._address("postgres")).close()
                return
            except psycopg.OperationalError:
                time.sleep(0.1)
        raise RuntimeError("PostgreSQL did not start")

    def stop(self) -> None:
        """Stop it in an orderly way."""
        # A fast shutdown would be SIGINT; idle connections are gone first.
        self._process.terminate()
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._process.send_signal(2)
            self._process.wait(30)

    def new_database(self, name: str) -> str:
        """Return the URL of an empty database."""
        with psycopg.connect(self._address("postgres"), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            connection.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql+psycopg://{_USER}@127.0.0.1:{self.port}/{name}"

    def _address(self, name: str) -> str:
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{name}"

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._binaries / name), *arguments],
            user=self._as,
            check=True,
            capture_output=True,
            cwd=self._folder,
        )


def binaries() -> Path | None:
    """Return where PostgreSQL's programs are, if it is installed."""
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if on_path := shutil.which("initdb"):
        folders.append(Path(on_path).resolve().parent)
    return folders[-1] if folders else None
