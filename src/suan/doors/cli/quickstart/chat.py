"""`make chat`: the model of a finished quickstart, served again for as long as somebody talks to it.

Knows lines in and lines out. Grid and sites are the quickstart's own, as it left them.
"""

import secrets
from pathlib import Path
from typing import Any

import click

from suan.doors.cli.quickstart.poem import PROMPT, write_answer
from suan.doors.cli.quickstart.report import SUMMARY
from suan.doors.cli.quickstart.screen import Screen
from suan.doors.cli.quickstart.story import Story
from suan.doors.client import Client
from suan.grid.error import Refused


def check_finished(state: Path) -> None:
    """Raises: Refused `not_finished` when there is no model to talk to yet."""
    if not (state / SUMMARY).exists():
        raise Refused("not_finished", f"no quickstart has finished in {state}", hint="make quickstart")


def chat(client: Client, story: Story, screen: Screen) -> None:
    """Serves the model, answers line by line until the input ends, and stops the service.

    Raises: Refused `serves_nothing` for a pipeline without a service.
    """
    services = [task for task in story.submission["tasks"] if task.get("replicas")]
    if not services:
        raise Refused("serves_nothing", "this pipeline has no service", hint="make quickstart ARGS=--fresh")
    (job,) = client.submit(services[:1], idempotency_key=f"chat-{secrets.token_hex(8)}")
    try:
        jobs = story.follow(client, [job["id"]])
        model = jobs[0]["task"]["name"]
        screen.say(f"talk to {model}; an empty line or Ctrl-D ends it. It has learnt such wishes: {PROMPT}")
        while question := _line():
            write_answer(client.url, client.key, model, _asked(question), screen.write)
            screen.say("")
    finally:
        story.end_services(client, [client.job(job["id"])])


def _asked(question: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}]


def _line() -> str:
    try:
        return str(click.prompt("you", default="", show_default=False, prompt_suffix="> "))
    except click.Abort:  # the end of the input
        return ""
