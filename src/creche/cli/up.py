"""`creche up`: a project's workers under one supervisor, in the foreground, reached by the other commands on its socket."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from creche.supervisor.events import Reader
    from creche.supervisor.output import LinesReader

__all__ = ["command"]


@click.command("up", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-f", "--file", "path", default="creche.toml", type=click.Path(path_type=Path), help="The project."
)
@click.option("-q", "--quiet", is_flag=True, help="Do not show what the workers print.")
@click.option(
    "--loop", type=click.Choice(["asyncio", "trio"]), default="asyncio", help="The event loop to run on."
)
def command(path: Path, quiet: bool, loop: str) -> None:
    """Run the workers of a project and look after them, until SIGTERM or Ctrl-C stops them in reverse order.

    SIGHUP reads the project again (as `creche reload` does). Under systemd (Type=notify) it says when all are ready,
    keeps the watchdog fed, and says when it stops. Its status is 0 when it was stopped, 1 when it gave up.
    """
    import anyio

    from creche.errors import CrecheError
    from creche.supervisor import GaveUp
    from creche.supervisor.project import load

    try:
        project = load(path)
        anyio.run(_run, project, quiet, backend=loop)
    except GaveUp as error:
        for line in (str(error), *(f"  {record.child}: {record.explain()}" for record in error.history)):
            click.echo(f"creche: {line}", err=True)
        sys.exit(1)
    except (CrecheError, OSError) as error:
        raise click.ClickException(str(error)) from None
    except ExceptionGroup as group:  # of a task group: the control socket could not be opened
        said, rest = group.split((CrecheError, OSError))
        if rest is not None or said is None:
            raise
        raise click.ClickException("; ".join(str(error) for error in said.exceptions)) from None


async def _run(project, quiet: bool) -> None:  # type: ignore[no-untyped-def]
    import anyio

    from creche.supervisor import Supervisor
    from creche.supervisor.control import Control, Place
    from creche.supervisor.project import load

    place = Place.of(project.name)
    with place.claim(), contextlib.ExitStack() as stack:
        sockets = project.listen()
        for sock in sockets.values():
            stack.enter_context(sock)
        supervisor = Supervisor(project.children, name=project.name, sockets=sockets, **project.options)
        shown = []
        try:
            async with supervisor as sup, anyio.create_task_group() as tasks:
                if not quiet:  # at once: a worker may print, and end, before anything else here is ready
                    shown = [partial(_show_output, sup.output()), partial(_show_events, sup.events())]

                async def reload():  # type: ignore[no-untyped-def]
                    return await sup.reload(load(project.path).children)

                control = Control(sup, place, reload)
                try:
                    for show in shown:
                        tasks.start_soon(show)
                    await tasks.start(control.serve)
                    await tasks.start(_signals, sup, reload)
                    tasks.start_soon(_tell_systemd, sup)
                    await sup.wait()
                finally:
                    tasks.cancel_scope.cancel()
        finally:  # all have ended: what they printed last, and what became of them
            for show in shown:
                await show()


async def _signals(sup, reload, *, task_status) -> None:  # type: ignore[no-untyped-def]
    import anyio

    from creche.errors import CrecheError

    stops = 0
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
        task_status.started()
        async for number in received:
            if number != signal.SIGHUP:
                stops += 1
                notify("STOPPING=1")
                (sup.terminate if stops == 1 else sup.kill)()
                continue
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")  # for Type=notify-reload
            try:
                await reload()
            except (CrecheError, OSError) as error:
                click.echo(f"creche: nothing was reloaded: {error}", err=True)
            notify("READY=1")


async def _tell_systemd(sup) -> None:  # type: ignore[no-untyped-def]
    import anyio

    if "NOTIFY_SOCKET" not in os.environ:
        return
    await sup.wait_ready()
    notify(f"READY=1\nSTATUS={len(sup.children)} workers are ready\nMAINPID={os.getpid()}")
    every = os.environ.get("WATCHDOG_USEC", "")
    while every.isdigit():
        notify("WATCHDOG=1")
        await anyio.sleep(int(every) / 2e6)


def notify(message: str) -> None:
    """Say something to whoever started us, as sd_notify(3) does; nothing where nobody wants to hear it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith(("/", "@")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
            sock.connect("\0" + address[1:] if address[0] == "@" else address)
            sock.send(message.encode())


async def _show_output(lines: LinesReader) -> None:
    from creche.units import escaped

    async for told in lines:
        text = escaped(told.line, len(told.line) * 4 + 16)[1:-1]
        click.echo(f"{told.child:12} | {text}", err=told.stream == "stderr")


async def _show_events(events: Reader) -> None:
    import logging

    from creche.supervisor.events import described, level

    async for event in events:
        if level(event) >= logging.INFO:
            click.echo(f"{getattr(event, 'child', ''):12} * {described(event)}", err=True)
