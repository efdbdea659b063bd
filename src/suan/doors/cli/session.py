"""Which grid a command talks to, with which key, and whether it answers in JSON.

Knows --url, --key, --json, SUAN_URL, SUAN_KEY and the client's file. Does not know what any verb does.
"""

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from suan.grid.error import Refused

if TYPE_CHECKING:
    from suan.doors.client import Client

CONFIG_VARIABLE = "SUAN_CONFIG"


class Session:
    """One command line's connection and manner of answering."""

    def __init__(self, url: str | None = None, key: str | None = None, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.url_option, self._key = url, key

    @functools.cached_property
    def client(self) -> "Client":
        """The grid. --url and --key win over SUAN_URL and SUAN_KEY, and those over the client's file.

        Raises: Refused `no_grid` when nothing says where the grid is.
        """
        from suan.doors.client import Client

        saved = read_config()
        url = self.url_option or os.environ.get("SUAN_URL") or saved.get("url", "")
        key = self._key or os.environ.get("SUAN_KEY") or saved.get("key", "")
        if not url:
            raise Refused("no_grid", "no grid is known here", hint="suan up, or set SUAN_URL and SUAN_KEY")
        return Client(url, key)

    def answer(self, value: Any, say: Callable[[], None]) -> None:
        """Prints `value` as JSON and nothing else, or calls `say`."""
        if self.as_json:
            print_json(value)
        else:
            say()

    def note(self, text: str) -> None:
        """Something that is no part of the answer; never on standard output."""
        if not self.as_json:
            print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """`value` on standard output, exactly one JSON document."""
    print(json.dumps(value, ensure_ascii=False, indent=2), flush=True)


def grid_verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command --url, --key and --json, and the Session made of them as its first argument."""

    @click.option("--url", metavar="URL", help="The grid's address [SUAN_URL].")
    @click.option("--key", metavar="KEY", help="Your key [SUAN_KEY].")
    @click.option("--json", "as_json", is_flag=True, help="Exact JSON on standard output, nothing else.")
    @functools.wraps(function)
    def command(*arguments: Any, url: str | None, key: str | None, as_json: bool, **options: Any) -> Any:
        return function(Session(url, key, as_json=as_json), *arguments, **options)

    return command


def config_path() -> Path:
    """Where the client's file is: $SUAN_CONFIG, else the user's configuration folder."""
    if named := os.environ.get(CONFIG_VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "suan" / "client.json"


def read_config() -> dict[str, str]:
    """The client's file; empty where there is none.

    Raises: Refused `bad_config`.
    """
    path = config_path()
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Refused(
            "bad_config", f"{path} cannot be read: {error}", hint="remove it, then: suan up"
        ) from error
    if not isinstance(found, dict):
        raise Refused("bad_config", f"{path} is not a JSON object", hint="remove it, then: suan up")
    return {name: value for name, value in found.items() if isinstance(value, str)}


def write_config(url: str, key: str) -> Path:
    """The file written: only this user may read it, and it is never half there."""
    path = config_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump({"url": url, "key": key}, file)
        file.write("\n")
    new.replace(path)
    return path
