"""`creche`: the group of commands; each is imported only when it is called, so that `creche run` starts fast."""

from __future__ import annotations

import gc
import importlib
import sys
from typing import Any, NoReturn

import click

__all__ = ["cli", "main"]

#: Command, module, and the line that `creche --help` shows for it without importing the module.
_COMMANDS = {
    "run": ("run", "Run a command in a container of its own."),
    "plan": ("plan", "Show every step the kernel would be told for such a run."),
    "inspect": ("inspect", "Show what a container of a spec file could reach, with a score."),
    "audit": ("audit", "Start a container of a spec file, and see whether its promises hold."),
    "doctor": ("doctor", "Tell what works on this machine, what not, why, and what would change it."),
    "schema": ("schema", "Print the JSON Schema of spec files."),
    "rm": ("rm", "Remove trees that containers left behind under foreign ids."),
    "up": ("up", "Run the workers of a project (creche.toml) and look after them."),
    "ps": ("workers:ps", "Show the workers of a running project."),
    "stats": ("stats", "Show what containers use, as a table that stays current or as JSON."),
    "top": ("top", "Watch a running project, and restart, stop or read its workers."),
    "logs": ("workers:logs", "Show what workers printed last, and go on with -f."),
    "events": ("workers:events", "Show what happens to the workers, as it happens."),
    "start": ("workers:start", "Start workers that were stopped."),
    "restart": ("workers:restart", "Stop workers and start them anew."),
    "stop": ("workers:stop", "Stop workers, or the whole project."),
    "scale": ("workers:scale", "Run more or fewer copies: creche scale web=4."),
    "reload": ("workers:reload", "Read the project again and replace what changed, with a way back."),
    "exec": ("workers:exec_", "Run a command in a worker's container."),
    "jobs": ("jobs", "Show how far the jobs in a queue's file have come."),
    "import": ("imports", "Print the project that a Procfile or a supervisord.conf describes."),
    "completion": ("completion", "Print the script that completes creche's options in your shell."),
}

OUR_FAILURE = 125


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[name][0].partition(":")
        found = importlib.import_module(f"creche.cli.{module}")
        command: click.Command = getattr(found, attribute or "command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], _COMMANDS, 1)
            if not near or "Did you mean" in error.message:
                raise
            raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", ctx) from None


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"creche {version('creche')}")
        ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version."
)
def cli() -> None:
    """Containers without a daemon and without root.

    \b
    creche run python3 -c 'print(6*7)'           a container with nothing personal in it
    creche run -m 64M --pids 32 --timeout 5 …    with limits that hold
    creche run -v .:/work -w /work make          with this directory in it
    creche plan --json …                         what the kernel would be told
    creche doctor                                what works here, and what would change the rest
    """


def main(arguments: list[str] | None = None) -> None:
    """The program. Our own failures end with 125 in `creche run`, so that they can be told from the command's."""
    arguments = sys.argv[1:] if arguments is None else arguments
    runs = arguments[:1] == ["run"]
    if not runs:
        gc.enable()  # it was off while the program was imported; `creche run` turns it on when its command has started
    try:
        code: Any = cli.main(arguments, prog_name="creche", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = OUR_FAILURE if runs else error.exit_code
    except click.Abort:
        code = 130
    except BrokenPipeError:
        code = _closed_pipe()
    except Exception as error:  # noqa: BLE001 (the end of the program: whatever it is, it gets a status)
        code = OUR_FAILURE if runs else 1
        if (
            isinstance(error, OSError) and not runs
        ):  # the disk behind our output is full, a file can't be read, …
            click.echo(f"creche: {error}", err=True)
        else:
            import traceback

            traceback.print_exc()  # a bug of ours, which must not look like an end of the command's
    _leave(code)


def _leave(code: int | None) -> NoReturn:
    """End without the interpreter's tidying up, some 10 ms of it: everything of ours has been closed by name."""
    import os

    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (BrokenPipeError, AttributeError):
            continue  # nobody reads it, or it was closed before we began
        except OSError as error:
            os.write(2, f"creche: {error.strerror}\n".encode())
            code = code or 1
    os._exit(code or 0)


def _closed_pipe() -> int:
    """End as a program ends that SIGPIPE kills (`creche doctor | head -1`), without a word on stderr."""
    import os

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # or the interpreter's last flush complains once more
    return 141


if __name__ == "__main__":
    main()
