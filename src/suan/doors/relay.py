"""The site's half of the relay: fetches questions from the grid, has them answered here, brings the answers.

Knows outward connections and this machine. For sites that nobody can dial: their data door and their services
listen where only the site itself reaches them.
"""

import base64
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx

from suan.doors.client import Client
from suan.doors.connection import path_part
from suan.doors.socket.upstream import PATIENCE_S
from suan.grid.error import SuanError
from suan.stores.mover import CHUNKS_AT_ONCE

log = logging.getLogger("suan.relay")
# As a fetch asks; requests to the engines of all services together.
_AT_ONCE = {"door": CHUNKS_AT_ONCE, "services": 128}
_POLLERS = 2  # one takes the next question while the other one's is being handed over
_WAIT_S = 10.0
_PAUSE_S = 1.0


class Relayed:
    """Answers the questions that the grid keeps for this site in `queue`, door or services, until `close`.

    `locate` turns a question's target into a URL that can be called from here, "" when there is none.
    """

    def __init__(self, client: Client, site: str, queue: str, locate: Callable[[str], str]) -> None:
        self._client, self._locate = client, locate
        self._path = f"/v1/sites/{path_part(site)}/relay/{queue}"
        at_once = _AT_ONCE[queue]
        limits = httpx.Limits(max_connections=at_once, keepalive_expiry=4.0)
        self._here = httpx.Client(trust_env=False, timeout=PATIENCE_S, limits=limits)
        self._closed = threading.Event()
        self._free = threading.BoundedSemaphore(at_once)
        self._workers = ThreadPoolExecutor(at_once, thread_name_prefix=f"relay-{queue}")
        for number in range(_POLLERS):
            name = f"relay-{queue}-poll-{number}"
            threading.Thread(target=self._poll, name=name, daemon=True).start()

    def close(self) -> None:
        """No question is fetched any more. Twice is once."""
        self._closed.set()
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _poll(self) -> None:
        while not self._closed.is_set():
            with self._free:
                pass  # some worker is free: what is taken is answered at once
            try:
                question = self._client.request("POST", self._path, params={"wait_s": _WAIT_S})["question"]
            except SuanError as error:
                log.debug("nothing is relayed: %s", error)
                self._closed.wait(_PAUSE_S)
                continue
            if question is None:
                continue
            try:
                self._workers.submit(self._answer, question)
            except RuntimeError:  # closed meanwhile; what was taken is answered all the same
                self._answer(question)

    def _answer(self, question: dict[str, str]) -> None:
        with self._free:
            try:
                self._pass_on(question)
            except (SuanError, httpx.HTTPError) as error:
                log.debug("an answer was not relayed: %s", error)

    def _pass_on(self, question: dict[str, str]) -> None:
        """Calls what is asked and sends its answer while it comes. Leaving off here closes the call there."""
        path = f"{self._path}/{path_part(question['id'])}"
        url = self._locate(question["target"])
        if not url:
            self._client.request("POST", path, body="no such run here", params={"status": 503})
            return
        body = base64.b64decode(question["body_base64"])
        headers = {"accept-encoding": "identity"}
        if question["ticket"]:
            headers["authorization"] = question["ticket"]
        if body:
            headers["content-type"] = "application/json"
        method = "POST" if body else "GET"
        try:
            with self._here.stream(method, url, content=body or None, headers=headers) as answer:
                kind = answer.headers.get("content-type", "application/octet-stream")
                self._client.request(
                    "POST",
                    path,
                    body=answer.iter_raw(),
                    params={"status": answer.status_code},
                    headers={"content-type": kind},
                )
        except httpx.ConnectError as error:
            self._client.request("POST", path, body=f"does not answer: {error}", params={"status": 503})


def relayed_door(client: Client, site: str, door_url: str) -> Relayed:
    """Gives the site's data through the grid; others call it by `relayed_url`."""
    return Relayed(client, site, "door", lambda target: f"{door_url}/{target}")


def relayed_url(client: Client, site: str) -> str:
    """By which others call the data door of a site that is relayed."""
    return f"{client.url}/v1/relay/{path_part(site)}"


def relayed_services(client: Client, site: str, url_of: Callable[[str], str]) -> Relayed:
    """Gives the services of the site's runs to the grid's socket. `url_of` says where that of a run answers,
    "" when it does not.
    """

    def locate(target: str) -> str:
        run, _, path = target.partition("/")
        url = url_of(run)
        return f"{url}/{path}" if url else ""

    return Relayed(client, site, "services", locate)


def service_url(site: str) -> str:
    """What the endpoints of a site's relayed services begin with; the socket knows what to do with it."""
    return f"relay://grid/{path_part(site)}"


def on_this_machine(url: str) -> bool:
    """Whether a grid's URL names this machine's loopback."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
