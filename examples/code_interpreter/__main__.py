"""Serves a page on which people run Python cell by cell, each session in a container of its own.

pip install 'creche[web]'
python examples/code_interpreter
"""

from __future__ import annotations

import argparse
import importlib
import signal
import socket
import sys
from functools import partial
from typing import Any

import anyio

from creche import CrecheError, Limits, SpecError
from creche.units import number, seconds

try:
    from app import Service, make_app
    from hypercorn.config import Config
    from sandbox import Sandbox
except ModuleNotFoundError as error:
    sys.exit(f"code_interpreter: {error}: the web framework is an extra, so say: pip install 'creche[web]'")

OURS = 125


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """What was asked for; exits with status 2 and a sentence where that makes no sense."""
    parser = argparse.ArgumentParser(prog="code_interpreter", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="the address to listen at (default: this machine alone)")
    add("--port", type=int, default=8000, help="0 is any that is free (default: 8000)")
    add("--name", action="append", default=[], metavar="HOST", help="a name by which browsers may call it")
    add("--sessions", type=int, default=100, metavar="N", help="at a time (default: 100)")
    add(
        "--idle",
        default="10m",
        metavar="SECONDS",
        help="a session that is not used so long is ended (default: 10m)",
    )
    add("-t", "--timeout", default="30", metavar="SECONDS", help="for each cell (default: 30)")
    add(
        "-m",
        "--memory",
        default="256M",
        metavar="SIZE",
        help="for each session, files included (default: 256M)",
    )
    add("--cpus", default="1", metavar="N", help="processors for each session (default: 1)")
    add(
        "--pids",
        type=int,
        default=64,
        metavar="N",
        help="processes and threads for each session (default: 64)",
    )
    add(
        "--no-limits",
        action="store_true",
        help="for machines without control groups: time, output and files are bounded still",
    )
    add("--loop", choices=("asyncio", "trio", "uvloop"), default="asyncio", help="(default: asyncio)")
    given = parser.parse_args(words)
    try:
        limits = Limits(memory=given.memory, cpus=number(given.cpus, "--cpus"), pids=given.pids)
        given.limits = Limits() if given.no_limits else limits
        given.timeout, given.idle = seconds(given.timeout, "--timeout"), seconds(given.idle, "--idle")
    except SpecError as error:
        parser.error(str(error))
    if given.sessions < 1 or given.timeout <= 0 or given.idle <= 0:
        parser.error("--sessions: at least 1; --timeout and --idle: above 0")
    return given


async def main(given: argparse.Namespace) -> None:
    """Try one sandbox, then serve until a signal says that it is enough."""
    async with Sandbox(limits=given.limits) as sandbox:
        await sandbox.python("None", timeout=20)
    serve = importlib.import_module(f"hypercorn.{'trio' if given.loop == 'trio' else 'asyncio'}").serve
    family = socket.AF_INET6 if ":" in given.host else socket.AF_INET
    listener = socket.create_server((given.host, given.port), family=family)
    address, port = listener.getsockname()[:2]
    address = f"[{address}]" if ":" in address else address
    service = Service(given.limits, given.timeout, given.idle, given.sessions)
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.loglevel = "WARNING"
    config.graceful_timeout = 5
    print(f"code_interpreter: http://{address}:{port}/ (Ctrl-C ends it)", flush=True)
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

        async def until_told() -> None:
            async for _ in signals:
                service.close()
                return

        async with service.open():
            app = make_app(service, hosts=["localhost", "127.0.0.1", "[::1]", address, *given.name])
            # In a task of its own: hypercorn's own group of tasks leaves the task that it ran in half cancelled.
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(serve, app, config, shutdown_trigger=until_told))


def start(given: argparse.Namespace) -> int:
    """The whole program, on the loop that was asked for."""
    options: dict[str, Any] = {"use_uvloop": True} if given.loop == "uvloop" else {}
    try:
        anyio.run(main, given, backend="trio" if given.loop == "trio" else "asyncio", backend_options=options)
    except CrecheError as error:
        print(f"code_interpreter: no container can be had here: {error}", file=sys.stderr)
        print(
            "code_interpreter: `creche doctor` tells what would change it; --no-limits does without control groups",
            file=sys.stderr,
        )
        return OURS
    except OSError as error:
        print(f"code_interpreter: {given.host}:{given.port}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(start(arguments()))
