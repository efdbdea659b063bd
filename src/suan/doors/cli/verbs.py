"""The table of verbs. A verb's module is imported when the verb is used, and not before.

Source of the idiom: click's documentation, "Lazily loading subcommands".
"""

import importlib
from typing import Any

import click

_HERE = "suan.doors.cli"

# verb -> (where its command lives, one line for the list: `suan --help` need not import what it lists)
VERBS: dict[str, tuple[str, str]] = {
    "up": (f"{_HERE}.grid:up", "Start a grid on this machine."),
    "down": (f"{_HERE}.grid:down", "Stop the grid that `suan up --detach` started."),
    "join": (f"{_HERE}.join:join", "Run the agent of a site: this machine joins a grid."),
    "sites": (f"{_HERE}.sites:sites", "Sites and pools; accelerator kinds; drain a site."),
    "site": (f"{_HERE}.site_check:site", "How ready this site is, and what to mend: suan site check."),
    "link": (f"{_HERE}.sites:link", "Links between sites: list or declare."),
    "tariff": (f"{_HERE}.sites:tariff", "Set what electricity costs at a site."),
    "prices": (f"{_HERE}.prices:prices", "What electricity and devices cost and are worth, by the hour."),
    "run": (f"{_HERE}.run:run", "Submit a task file and follow it; Ctrl-C leaves it running."),
    "quote": (f"{_HERE}.run:quote", "What a task file would cost, everywhere it could run."),
    "estimate": (
        f"{_HERE}.estimate.command:estimate",
        "Hours, memory, energy and the best plan, before anything runs.",
    ),
    "jobs": (f"{_HERE}.jobs:jobs", "Jobs, newest first."),
    "job": (f"{_HERE}.jobs:job", "One job in full."),
    "why": (f"{_HERE}.why:why", "Why a job waits, for which price, and what would help; all bids."),
    "durations": (f"{_HERE}.why:durations", "How well the lengths of runs were foretold."),
    "logs": (f"{_HERE}.jobs:logs", "What a job printed; -f follows."),
    "stop": (f"{_HERE}.jobs:stop", "Stop jobs."),
    "data": (f"{_HERE}.data:data", "An artifact in full: versions, copies, what it was made from."),
    "put": (f"{_HERE}.data:put", "Upload a folder as an artifact."),
    "get": (f"{_HERE}.data:get", "Download an artifact."),
    "ls": (f"{_HERE}.data:ls", "Artifacts."),
    "bill": (f"{_HERE}.bill:bill", "What was used and what it cost, line by line."),
    "tenant": (f"{_HERE}.keys:tenant", "Tenants: list, show or set share, quota and budget."),
    "key": (f"{_HERE}.keys:key", "Keys: list, issue, revoke."),
    "join-token": (f"{_HERE}.keys:join_token", "A one-time token for a site to join with."),
    "what-if": (f"{_HERE}.what_if:what_if", "The live grid under another tariff, site or policy."),
    "simulate": ("suan.sim.command:simulate_command", "Replay a trace of jobs on a simulated grid."),
    "quickstart": (f"{_HERE}.quickstart.command:quickstart", "A model's life on two sites of this machine."),
    "doctor": (f"{_HERE}.doctor:doctor", "Check this machine and the grid, and say what to do."),
    "completion": (f"{_HERE}.completion:completion", "Shell completion for bash, zsh or fish."),
    "version": (f"{_HERE}.completion:version", "This program's version, and the grid's."),
}

ALIASES = {"tenants": "tenant", "keys": "key", "links": "link", "log": "logs", "price": "prices"}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        name = ALIASES.get(name, name)
        if name not in VERBS:
            return None
        module, _, attribute = VERBS[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        command.name = name
        return command

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if arguments and arguments[0] not in (*VERBS, *ALIASES) and not arguments[0].startswith("-"):
            import difflib  # slow to import, and needed only here

            near = difflib.get_close_matches(arguments[0], VERBS, n=1)
            also = f"; did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"there is no verb {arguments[0]!r}{also}", context)
        return super().resolve_command(context, arguments)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])


def _version(context: click.Context, parameter: click.Parameter, wanted: Any) -> None:
    if wanted:
        from suan import __version__

        click.echo(f"suan {__version__}")
        context.exit()


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.option(
    "--version",
    "-V",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_version,
    help="Show the version.",
)
def suan() -> None:
    """Suan (算): many compute centres, one socket.

    Say what you want done; the grid finds where and when it is done best, moves the data, runs it and bills
    it. Every verb has --help, and --json for exact JSON on standard output. Errors exit with 2 when you can
    fix them and with 75 when the same command may succeed later.
    """
