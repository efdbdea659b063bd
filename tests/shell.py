"""Somebody at a shell with a grid of their own: a folder, an environment without other grids, and terminals
in which programs go on until Ctrl-C.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path


class Shell:
    """Lines are bash's, typed in `folder`; the verbs are those of the Python that runs the tests."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SUAN_")}
        self.env = kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "SUAN_CONFIG": str(folder / "client.json"),
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        self.terminals: list[subprocess.Popen[bytes]] = []

    def begin(self, line: str, log: str) -> subprocess.Popen[bytes]:
        """A line that is being carried out; what it prints is in the file `log`."""
        with (self.folder / log).open("wb") as output:
            return subprocess.Popen(
                ["bash", "-c", line],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def open_terminal(self, line: str) -> Path:
        """Types it in a terminal of its own; the file that it prints into."""
        log = f"terminal-{len(self.terminals)}.log"
        self.terminals.append(self.begin(f"exec {line}", log))
        return self.folder / log

    def close_terminals(self, within_s: float) -> int:
        """Ctrl-C in all of them; how many had to be killed because they went on."""
        for terminal in self.terminals:
            if terminal.poll() is None:
                terminal.send_signal(signal.SIGINT)
        killed = 0
        for terminal in self.terminals:
            try:
                terminal.wait(within_s)
            except subprocess.TimeoutExpired:
                killed += 1
                terminal.kill()
                terminal.wait()
        return killed
