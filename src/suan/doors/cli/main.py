"""The entry point: the version at once, any verb through click, and every error as one line, a hint and an
exit code.

Imports nothing at its top but what Python itself has loaded: `suan --version` must feel instant.
"""

import sys

TYPE_CHECKING = False  # typing's own costs half of what `--version` takes
if TYPE_CHECKING:
    from suan.grid.error import SuanError

EXIT_FAILED = 1  # the work itself failed: a job, a check
EXIT_REFUSED = 2  # the caller can fix it; nothing was stored
EXIT_TEMPFAIL = 75  # the same call may succeed later (sysexits.h, EX_TEMPFAIL)
EXIT_INTERRUPTED = 130  # Ctrl-C, as shells count it


def main() -> None:
    """Runs the command line and exits."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        from suan import __version__

        print(f"suan {__version__}")
        return
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """The exit code of one command line."""
    import click

    from suan.doors.cli.verbs import suan
    from suan.grid.error import NotNow, SuanError

    try:
        code = suan.main(arguments, prog_name="suan", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SuanError as error:
        _say(arguments, _problem(error))
        return EXIT_TEMPFAIL if isinstance(error, NotNow) else EXIT_REFUSED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return EXIT_REFUSED
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "suan"
        _say(arguments, {"code": "bad_usage", "detail": error.format_message(), "hint": f"{path} --help"})
        return EXIT_REFUSED
    except click.ClickException as error:
        _say(arguments, {"code": "bad_usage", "detail": error.format_message(), "hint": ""})
        return EXIT_REFUSED
    except (KeyboardInterrupt, click.Abort):
        print(file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `suan jobs | head`: the reader has seen enough
        sys.stderr.close()
        return 0


def _problem(error: "SuanError") -> dict[str, object]:
    """The error in the shape of problem+json, as REST gives it."""
    return {
        "type": f"urn:suan:{error.code}",
        "title": error.code.replace("_", " "),
        "status": error.status,
        "code": error.code,
        "detail": error.what,
        "hint": error.hint,
        "fields": error.fields,
    }


def _say(arguments: list[str], problem: dict[str, object]) -> None:
    if "--json" in arguments:
        import json

        print(json.dumps(problem, ensure_ascii=False, default=str), file=sys.stderr)
        return
    print(f"error: {problem['detail']}", file=sys.stderr)
    if problem["hint"]:
        print(f"hint: {problem['hint']}", file=sys.stderr)


if __name__ == "__main__":
    main()
