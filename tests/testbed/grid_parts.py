"""The grid's machine: PostgreSQL with the journal, SeaweedFS with the grid's store, and one control plane."""

import contextlib
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from postgres_server import PostgresServer, find_postgres
from programs import Program
from s3_server import IDENTITY, S3_PORTS, find_weed, free_port, make_bucket

from suan.engines.supervise import descendants
from suan.grid import fact as f
from suan.journals.postgres import PostgresJournal

PORT = 8700
_START_S = 60.0


class S3Server:
    """SeaweedFS on fixed ports over a folder, so that it can be started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        (folder / "s3.json").write_bytes(msgspec.json.encode({"identities": [IDENTITY]}))
        self._ports = {name: free_port() for name in S3_PORTS}
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"http://127.0.0.1:{self._ports['-s3.port']}"
        key = IDENTITY["credentials"][0]
        self.config = {"access_key_id": key["accessKey"], "secret_access_key": key["secretKey"]}
        self.config |= {"region": "us-east-1", "endpoint": self.endpoint, "allow_http": "true"}

    def start(self) -> None:
        command = [str(find_weed()), "server", "-s3", "-filer", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += ["-volume.max=8", "-master.volumeSizeLimitMB=64", f"-dir={self._folder}"]
        command += [f"-s3.config={self._folder}/s3.json", *(f"{n}={p}" for n, p in self._ports.items())]
        with open(self._folder / "weed.log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)

    def make_bucket(self) -> None:
        config = {name: value for name, value in self.config.items() if name != "allow_http"}
        make_bucket({"config": config, "client_options": {"allow_http": True}})

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()


class GridHost:
    def __init__(self, folder: Path, address: str, policy: dict[str, Any]) -> None:
        self._folder, self._address = folder, address
        programs = find_postgres()
        assert programs is not None, "no PostgreSQL here"
        (folder / "postgres").mkdir()
        self._parts: dict[str, Any] = {
            "postgres": PostgresServer(programs, folder / "postgres"),
            "s3": S3Server(folder / "s3"),
        }
        settings = "\n".join(f"{name} = {value}" for name, value in policy.items())
        (folder / "grid.toml").write_text(f"[policy]\n{settings}\n")
        self._journal = ""

    def start(self) -> dict[str, str]:
        """{url, key} of the grid, once it answers."""
        for part in ("postgres", "s3"):
            self._parts[part].start()
        self._parts["s3"].make_bucket()
        self._journal = self._parts["postgres"].new_database()
        url = f"http://{self._address}:{PORT}"
        arguments = ["up", "--state", str(self._folder / "state"), "--journal", self._journal]
        arguments += ["--config", str(self._folder / "grid.toml"), "--public-url", url]
        arguments += ["--host", "0.0.0.0", "--port", str(PORT)]
        amazon = {f"AWS_{name.upper()}": value for name, value in self._parts["s3"].config.items()}
        own = {**amazon, "SUAN_GRID_STORE": "s3://suan/grid"}
        plane = self._parts["grid"] = Program(self._folder, "grid", arguments, own)
        plane.start()
        key = self._folder / "state" / "admin.key"
        deadline_s = time.monotonic() + _START_S
        while not (self._folder / "state" / "grid.json").exists():
            log = (self._folder / "grid.log").read_text("utf-8", "replace")[-800:]
            assert plane.is_running and time.monotonic() < deadline_s, log
            time.sleep(0.1)
        return {"url": url, "key": key.read_text().strip()}

    def kill(self, part: str) -> None:
        """kill -9 to `grid`, `postgres` or `s3`."""
        self._parts[part].kill()

    def restore(self, part: str) -> None:
        self._parts[part].start()

    def hang(self, seconds: float) -> int:
        """Whatever PostgreSQL is at takes so long, as on a disk that does not come back from an fsync. How
        many of its processes that held up.
        """
        server = self._parts["postgres"].process
        held = (server, *descendants(server))
        for number, pause_s in ((signal.SIGSTOP, seconds), (signal.SIGCONT, 0.0)):
            for process in held:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)
            time.sleep(pause_s)
        return len(held)

    def alive(self) -> bool:
        return bool(self._parts["grid"].is_running)

    def tally(self) -> dict[str, Any]:
        """What the journal says: how often jobs ended and outputs were committed; whether money balances."""
        ends: Counter[str] = Counter()
        outputs: Counter[str] = Counter()
        kinds: Counter[str] = Counter()
        unbalanced, starts = 0, []
        journal = PostgresJournal(self._journal)
        try:
            for _, fact in journal.read():
                kinds[type(fact).__name__] += 1
                match fact:
                    case f.JobEnded():
                        ends[fact.job] += 1
                    case f.ArtifactCommitted() if fact.output:
                        outputs[f"{fact.artifact.job}/{fact.output}"] += 1
                    case f.Settled():
                        unbalanced += sum(entry.amount_microyuan for entry in fact.entries) != 0
                    case f.RunStarted() | f.SiteFenced() | f.SiteReturned():
                        what = fact.run if isinstance(fact, f.RunStarted) else fact.site
                        starts.append([type(fact).__name__, what, fact.at_s])
                    case _:
                        pass
        finally:
            journal.close()
        return {
            "ends": ends, "outputs": outputs, "kinds": kinds, "unbalanced": unbalanced, "landmarks": starts
        }  # fmt: skip

    def stop(self) -> None:
        if "grid" in self._parts:
            self._parts["grid"].end()
        self._parts["s3"].kill()
        self._parts["postgres"].stop()
