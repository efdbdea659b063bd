"""What a whole machine draws, as its management controller (BMC) tells over Redfish.

Knows the two places where Redfish has it. One controller is one machine. None means that it was not told: an
unreachable controller is no reading, and no trouble of the machine's.
Source: DMTF DSP0268 (Redfish Data Model): Chassis, Power (PowerControl.PowerConsumedWatts, until 2020.4),
EnvironmentMetrics (PowerWatts.Reading).
"""

import contextlib
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from suan.grid.error import Refused

_TIMEOUT_S = 4.0
_ROOT = "/redfish/v1/Chassis"


class Redfish:
    """A machine's controller at https://USER@HOST. Reads only."""

    def __init__(self, url: str, password_file: Path | None, certificate: Path | None = None) -> None:
        """`certificate` is the controller's own, which is rarely one that others have signed.

        Raises: Refused `bad_redfish`.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise Refused("bad_redfish", f"{url[:80]!r} is no controller", hint="write https://USER@HOST")
        try:
            password = password_file.read_text("utf-8").strip() if password_file else ""
            trusted: Any = ssl.create_default_context(cafile=certificate) if certificate else True
        except (OSError, UnicodeDecodeError) as error:
            raise Refused("bad_redfish", f"{url}: {error}", hint="name readable files") from error
        where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        auth = (parts.username, password) if parts.username else None
        self._client = httpx.Client(
            base_url=where, auth=auth, verify=trusted, timeout=_TIMEOUT_S, trust_env=False
        )
        self._places: list[str] | None = None  # where a chassis tells its power; found once

    def node_w(self) -> float | None:
        """Watts of the machine now, at its socket; None when the controller does not tell."""
        if self._places is None:
            self._places = self._find()
        found = [watts for place in self._places if (watts := _watts(self._ask(place))) is not None]
        if not found:
            self._places = None  # it may have been away: look again the next time
            return None
        return max(found)  # a chassis within the chassis is in its number already

    def close(self) -> None:
        self._client.close()

    def _find(self) -> list[str]:
        places = []
        for member in self._ask(_ROOT).get("Members", ()):
            chassis = self._ask(str(member.get("@odata.id", "")))
            for name in ("EnvironmentMetrics", "Power"):
                place = chassis.get(name, {}).get("@odata.id", "")
                if place and _watts(self._ask(place)) is not None:
                    places.append(place)
                    break
        return places

    def _ask(self, path: str) -> dict[str, Any]:
        with contextlib.suppress(httpx.HTTPError, ValueError):
            answer = self._client.get(path)
            told = answer.json() if answer.status_code == 200 else None
            if isinstance(told, dict):
                return told
        return {}


def _watts(told: dict[str, Any]) -> float | None:
    reading = told.get("PowerWatts")
    if isinstance(reading, dict) and isinstance(reading.get("Reading"), int | float):
        return float(reading["Reading"])
    controls = told.get("PowerControl")
    if isinstance(controls, list) and controls and isinstance(controls[0], dict):
        watts = controls[0].get("PowerConsumedWatts")  # the first is the chassis as a whole
        return float(watts) if isinstance(watts, int | float) else None
    return None
