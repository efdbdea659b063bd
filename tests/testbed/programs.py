"""Suan's own programs on a machine: the grid and agents, started as a person would, killed, started again."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


class Program:
    """`suan` with these arguments. Its log is FOLDER/NAME.log."""

    def __init__(
        self, folder: Path, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self._folder, self._name, self._arguments = folder, name, list(arguments)
        own = {key: value for key, value in os.environ.items() if not key.startswith(("SUAN_", "AWS_"))}
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        config = {"SUAN_CONFIG": str(folder / "client.json"), "OMP_NUM_THREADS": "1", "PATH": path}
        self._environment = {**own, **_OFFLINE, **config, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self._folder / f"{self._name}.log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "suan.doors.cli.main", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self._folder,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        self.end(signal.SIGKILL)

    def end(self, number: int = signal.SIGTERM, patience_s: float = 30.0) -> None:
        if self._process is None:
            return
        if self.is_running:
            self._process.send_signal(number)
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def stepped_clock(file: Path) -> dict[str, str]:
    """Variables with which the clock of the day of a program in Python is off by what the file says."""
    file.write_text("0")
    path = [str(Path(__file__).parent / "stepped"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(path), "BED_CLOCK": str(file)}
