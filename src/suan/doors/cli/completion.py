"""Verbs about the program itself: completion, version."""

import click

from suan import __version__
from suan.doors.cli.session import Session, grid_verb
from suan.grid.error import SuanError

_WHERE = {
    "bash": 'eval "$(suan completion bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(suan completion zsh)"   # in ~/.zshrc, after compinit',
    "fish": "suan completion fish > ~/.config/fish/completions/suan.fish",
}


@click.command(epilog="\b\n" + "\n".join(_WHERE.values()))
@click.argument("shell", type=click.Choice(tuple(_WHERE)))
def completion(shell: str) -> None:
    """Print what makes a shell complete verbs and options."""
    from click.shell_completion import get_completion_class

    from suan.doors.cli.verbs import suan

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(suan, {}, "suan", "_SUAN_COMPLETE").source())


@click.command()
@grid_verb
def version(session: Session) -> None:
    """This program's version, and the grid's when one answers."""
    found: dict[str, object] = {"suan": __version__, "grid": None}
    try:
        found |= {"url": session.client.url, "grid": session.client.version()}
    except SuanError as error:
        found["trouble"] = error.what

    def say() -> None:
        print(f"suan {__version__}")
        grid = found["grid"]
        print(
            f"grid {grid.get('version', '?')} at {found['url']}"
            if isinstance(grid, dict)
            else f"grid: {found['trouble']}"
        )

    session.answer(found, say)
