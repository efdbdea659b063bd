"""How the grid and its agents write their logs: as text for people, or one JSON object a line for collectors.

Knows the one set of fields: `at` (UTC, milliseconds), `level`, `event`, `message`, `logger` always; `site`,
`job`, `run` and `error` where they are known. Whoever logs names them: `log.info("…", extra={"run": run})`.
`event` is what lines of one sort share: given by whoever logs, else the text before its values are filled in.
Does not know where lines go: standard error, as always.
"""

import datetime
import json
import logging
import sys

from suan.grid.error import Refused

FORMATS = ("text", "json")
NAMED = ("site", "job", "run")
_CHATTY = ("httpx", "httpcore", "urllib3", "kubernetes")


def write_logs(how: str, site: str = "") -> None:
    """From now on this process logs so to standard error, as `site` unless a line says otherwise.

    Raises: Refused `bad_log_format`.
    """
    if how not in FORMATS:
        hint = f"there are: {', '.join(FORMATS)}"
        raise Refused("bad_log_format", f"{how[:40]!r} is no format of logs", hint=hint)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(site) if how == "json" else _text(site))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _text(site: str) -> logging.Formatter:
    return logging.Formatter(f"%(asctime)s {site or 'grid'}: %(message)s", datefmt="%H:%M:%S")


class JsonLines(logging.Formatter):
    """One JSON object a line, whatever is in the message."""

    def __init__(self, site: str = "") -> None:
        super().__init__()
        self._site = site

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", record.msg),
            "message": record.getMessage(),
            "logger": record.name,
        }
        for name in NAMED:
            if value := getattr(record, name, self._site if name == "site" else ""):
                line[name] = value
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)
