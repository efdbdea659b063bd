"""The site's half of the relay: fetches questions to its data door from the grid and brings the door's
answers.

Knows only outward connections. For sites that nobody can dial; the door itself listens on loopback.
"""

import logging
import threading

import httpx

from suan.doors.client import Client
from suan.doors.connection import path_part
from suan.grid.error import SuanError

log = logging.getLogger("suan.relay")
_AT_ONCE = 8  # as a fetch asks
_WAIT_S = 10.0
_PAUSE_S = 1.0


class RelayedDoor:
    """Serves the door at `door_url` through the grid until `close`. `url` is what others call it by."""

    def __init__(self, client: Client, site: str, door_url: str) -> None:
        self.url = f"{client.url}/v1/relay/{path_part(site)}"
        self._client, self._path = client, f"/v1/sites/{path_part(site)}/door"
        self._door = httpx.Client(base_url=door_url, trust_env=False, timeout=30.0)
        self._closed = threading.Event()
        for number in range(_AT_ONCE):
            threading.Thread(target=self._serve, name=f"relay-{number}", daemon=True).start()

    def close(self) -> None:
        """No question is fetched any more. Twice is once."""
        self._closed.set()

    def _serve(self) -> None:
        while not self._closed.is_set():
            try:
                params = {"wait_s": _WAIT_S}
                question = self._client.request("POST", self._path, params=params)["question"]
                if question is not None:
                    self._answer(question)
            except (SuanError, httpx.HTTPError) as error:
                log.debug("nothing is relayed: %s", error)
                self._closed.wait(_PAUSE_S)

    def _answer(self, question: dict[str, str]) -> None:
        answer = self._door.get(f"/{question['target']}", headers={"authorization": question["ticket"]})
        path = f"{self._path}/{path_part(question['id'])}"
        self._client.request("PUT", path, body=answer.content, params={"status": answer.status_code})
