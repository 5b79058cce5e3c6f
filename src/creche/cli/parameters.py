"""The options that `creche run` and `creche plan` share, in sections as their help prints them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["PRESETS", "RunCommand", "shared"]

#: The names of `creche.spec.presets`, as the help and the completion need them without loading specs.
PRESETS = ("default", "strict", "build", "privileged")

F = TypeVar("F", bound=Callable[..., Any])


class _Option(click.Option):
    """An option that belongs to a section of the help."""

    def __init__(self, *args: Any, section: str = "Options", **more: Any) -> None:
        super().__init__(*args, **more)
        self.section = section


class RunCommand(click.Command):
    """A command whose options end at the first word that is none, whose help has sections, and which remembers
    in `ctx.meta["creche.order"]` in which order its options came: mounts need it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_interspersed_args = False
        return super().parse_args(ctx, args)

    def make_parser(self, ctx: click.Context) -> Any:
        parser = super().make_parser(ctx)
        parse = parser.parse_args

        def remembering(args: list[str]) -> Any:
            given, rest, order = parse(args)
            ctx.meta["creche.order"] = [parameter.name for parameter in order]
            return given, rest, order

        parser.parse_args = remembering  # type: ignore[method-assign] # to parse once more would cost each run as much again
        return parser

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records, col_max=34)


def _options() -> list[Callable[[F], F]]:
    made: list[Callable[[F], F]] = []

    def add(section: str, *names: str, **more: Any) -> None:
        made.append(click.option(*names, cls=_Option, section=section, **more))

    def many(section: str, *names: str, **more: Any) -> None:
        add(section, *names, multiple=True, **more)

    how = "How it runs"
    add(how, "-t", "--tty/--no-tty", default=None, help="A terminal of its own (the default on a terminal).")
    add(how, "-i", "--interactive/--no-interactive", default=True, help="Give it our input (the default).")
    add(how, "--timeout", metavar="SECONDS", help="End it after this long, such as 5 or 2m.")
    add(how, "--rm", is_flag=True, hidden=True, help="For those used to docker run: it is always so.")

    what = "The command and its surroundings"
    add(
        what,
        "-f",
        "--spec",
        metavar="FILE",
        type=click.Path(),
        help="Start from a spec in TOML or JSON; options override it.",
    )
    many(what, "-e", "--env", metavar="NAME[=VALUE]", help="Set a variable, or hand ours on.")
    many(what, "--env-file", metavar="FILE", help="The same, one a line, from a file.")
    many(what, "--setenv", nargs=2, metavar="NAME VALUE", help="As bwrap has it.")
    add(what, "--clearenv", is_flag=True, default=None, help="Start from an empty environment.")
    add(what, "-w", "--workdir", "--chdir", "workdir", metavar="DIR", help="Directory to start in.")
    add(what, "--umask", metavar="OCTAL", help="Default 022.")
    add(what, "--init/--no-init", default=None, help="A small init as process 1 (the default).")
    add(what, "--name", metavar="NAME", help="What cgroups and logs call it.")
    add(what, "--hostname", metavar="NAME", help="The host name in it.")
    add(what, "--domainname", metavar="NAME", help="The NIS domain name in it.")
    many(what, "--preserve-fd", type=int, metavar="N", help="Pass our descriptor N.")

    who = "Users"
    add(who, "-u", "--user", metavar="USER[:GROUP]", help="Name or id in the container.")
    many(who, "--group-add", metavar="GROUP", help="One more group.")
    many(who, "--uidmap", metavar="IN:OUT:COUNT", help="Map user ids.")
    many(who, "--gidmap", metavar="IN:OUT:COUNT", help="Map group ids.")

    files = "Files"
    add(
        files,
        "--rootfs",
        metavar="DIR|host|none",
        help="The root: a directory, the host's programs read-only (the default), or our own as it is.",
    )
    many(
        files,
        "--overlay",
        metavar="DIR[:DIR…]",
        help="The root as an overlay over these, writes thrown away.",
    )
    add(files, "--upper", metavar="DIR", help="Keep the overlay's writes here…")
    add(files, "--work", metavar="DIR", help="…with this empty directory beside it.")
    add(files, "--read-only", is_flag=True, default=None, help="Make the root read-only.")
    many(files, "-v", "--volume", metavar="SRC:DEST[:ro,…]", help="Bind a directory or file.")
    many(files, "--mount", metavar="type=…,src=…,dst=…", help="Any mount, as docker run has it.")
    many(files, "--bind", nargs=2, metavar="SRC DEST", help="Bind writable, as bwrap has it.")
    many(files, "--ro-bind", nargs=2, metavar="SRC DEST", help="Bind read-only.")
    many(files, "--bind-try", nargs=2, metavar="SRC DEST", help="Bind where SRC exists.")
    many(files, "--ro-bind-try", nargs=2, metavar="SRC DEST", help="The same, read-only.")
    many(files, "--tmpfs", metavar="DEST[:size=…]", help="An empty directory in memory.")
    many(files, "--symlink", nargs=2, metavar="SRC DEST", help="A symbolic link DEST to SRC.")
    many(files, "--proc", metavar="DEST", help="One more /proc.")
    many(files, "--mqueue", metavar="DEST", help="POSIX message queues.")
    many(files, "--device", metavar="PATH", help="One of the host's devices.")

    limits = "Limits (an error where one cannot be enforced)"
    add(limits, "-m", "--memory", metavar="SIZE", help="Memory, such as 256M.")
    add(limits, "--memory-high", metavar="SIZE", help="Slow it down from here on.")
    add(limits, "--swap", metavar="SIZE", help="Swap beyond memory.")
    add(limits, "--cpus", metavar="N", help="Processors, such as 1.5.")
    add(limits, "--cpu-weight", type=int, metavar="1-10000", help="Share when processors are busy.")
    add(limits, "--cpu-time", metavar="SECONDS", help="Processor time for all of it.")
    add(limits, "--cpuset-cpus", metavar="LIST", help="These processors, such as 0-1,3.")
    add(limits, "--cpuset-mems", metavar="LIST", help="These memory nodes.")
    add(limits, "--pids", "--pids-limit", "pids", type=int, metavar="N", help="Processes and threads.")
    add(limits, "--blkio-weight", type=int, metavar="1-10000", help="Share of busy disks.")
    for way in ("read", "write"):
        many(limits, f"--device-{way}-bps", metavar="DEV:RATE", help=f"Bytes a second to {way}.")
        many(limits, f"--device-{way}-iops", metavar="DEV:N", help=f"Operations a second to {way}.")
    many(limits, "--ulimit", metavar="NAME=SOFT[:HARD]", help="A limit for each process.")
    add(limits, "--nice", type=int, metavar="N", help="Niceness.")
    add(limits, "--oom-score-adj", type=int, metavar="N", help="Who goes first when memory ends.")

    apart = "Separation"
    add(
        apart,
        "--network",
        "--net",
        "network",
        metavar="none|host|ns:PATH",
        help="none: only a loopback of its own (the default).",
    )
    add(apart, "--pid", metavar="private|host|ns:PATH", help="Processes.")
    add(apart, "--ipc", metavar="private|host|ns:PATH", help="System V IPC and message queues.")
    add(apart, "--uts", metavar="private|host|ns:PATH", help="Host name.")
    add(apart, "--userns", metavar="private|host|ns:PATH", help="User ids.")
    add(apart, "--cgroupns", metavar="private|host|ns:PATH", help="The view of cgroups.")
    add(
        apart,
        "--preset",
        type=click.Choice(PRESETS),
        help="What it may do, by name; the options below change single things of it.",
    )
    many(apart, "--cap-add", metavar="CAP", help="Keep a capability (there are none by default).")
    many(apart, "--cap-drop", metavar="CAP|ALL", help="Take one of a spec file's away.")
    add(
        apart,
        "--seccomp",
        metavar="NAME|FILE",
        help="default, strict, unconfined, or a file as Docker has it.",
    )
    many(
        apart,
        "--security-opt",
        metavar="NAME=VALUE",
        help="As docker run has it: seccomp, no-new-privileges, apparmor, label, systempaths.",
    )
    add(
        apart,
        "--report-violations",
        is_flag=True,
        default=None,
        help="At the end tell which system calls the filter refused.",
    )
    many(apart, "--sysctl", metavar="NAME=VALUE", help="A sysctl of its own namespaces.")
    add(
        apart,
        "--privileged",
        is_flag=True,
        default=None,
        help="Every capability its namespaces can have, and no filter.",
    )
    return made


def shared(function: F) -> F:
    """The options that make a Spec, and the command after them."""
    function = click.argument("command", nargs=-1, type=click.Path(readable=False), metavar="COMMAND [ARG…]")(function)
    for option in reversed(_options()):
        function = option(function)
    return function
