"""The program on a machine of the test bed: starts the machine's daemons, kills them and starts them again.

Knows the protocol: a JSON list [method, argument, …] a line in, {"value": …} or {"trouble": text} a line out.
What the methods do is `site_parts.py`'s and `grid_parts.py`'s. When its input ends, everything is stopped.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))


def open_part(arguments: dict[str, Any]) -> Any:
    if arguments["role"] == "grid":
        from grid_parts import GridHost

        return GridHost(Path(arguments["folder"]), arguments["address"], arguments["policy"])
    from site_parts import SiteHost

    return SiteHost(arguments["role"], arguments["site"], arguments["address"], Path(arguments["folder"]))


def main() -> None:
    protocol = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what anybody prints goes to the log
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    host = open_part(json.loads(sys.argv[1]))
    try:
        answer: dict[str, Any] = {"value": None}
        while True:
            protocol.write(json.dumps(answer) + "\n")
            protocol.flush()
            line = sys.stdin.readline()
            if not line:
                return
            method, *given = json.loads(line)
            try:
                answer = {"value": getattr(host, method)(*given)}
            except Exception as error:
                traceback.print_exc()
                answer = {"trouble": f"{method}: {type(error).__name__}: {error}"}
    finally:
        host.stop()


if __name__ == "__main__":
    main()
