"""Serves a page on which people run programs, each in a container of its own.

pip install 'creche[web]'
python examples/run_service
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from typing import Any

import anyio

from creche import CrecheError, Limits, SpecError, run
from creche.units import number, seconds, size

try:
    from app import Service, make_app
    from hypercorn.config import Config
    from sandbox import Bounds, languages, spec_of
except ModuleNotFoundError as error:
    sys.exit(f"run_service: {error}: the web framework is an extra, so say: pip install 'creche[web]'")

OURS = 125


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """What was asked for; exits with status 2 and a sentence where that makes no sense."""
    processors = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog="run_service", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="the address to listen at (default: this machine alone)")
    add("--port", type=int, default=8000, help="0 is any that is free (default: 8000)")
    add(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        help="a name by which browsers may call it; repeat for more",
    )
    add(
        "-j",
        "--jobs",
        type=int,
        default=processors,
        metavar="N",
        help="programs at a time (default: one for each processor)",
    )
    add(
        "--waiting",
        type=int,
        default=16,
        metavar="N",
        help="programs that may wait for their turn (default: 16)",
    )
    add("-t", "--timeout", default="10", metavar="SECONDS", help="for each program (default: 10)")
    add("-m", "--memory", default="256M", metavar="SIZE", help="for each program (default: 256M)")
    add("--cpus", default="1", metavar="N", help="processors for each program (default: 1)")
    add(
        "--pids",
        type=int,
        default=64,
        metavar="N",
        help="processes and threads for each program (default: 64)",
    )
    add(
        "--no-limits",
        action="store_true",
        help="where this machine gives us no control groups: time and output are bounded still",
    )
    add(
        "--max-output",
        default="256K",
        metavar="SIZE",
        help="bytes that each program may print (default: 256K)",
    )
    add(
        "--loop",
        choices=("asyncio", "trio", "uvloop"),
        default="asyncio",
        help="the event loop (default: asyncio)",
    )
    given = parser.parse_args(words)
    if given.jobs < 1 or given.waiting < 0:
        parser.error("--jobs: at least 1, and --waiting: at least 0")
    try:
        limits = Limits(memory=given.memory, cpus=number(given.cpus, "--cpus"), pids=given.pids, swap=None)
        given.bounds = Bounds(
            Limits() if given.no_limits else limits,
            seconds(given.timeout, "--timeout"),
            size(given.max_output, "--max-output"),
        )
    except SpecError as error:
        parser.error(str(error))
    return given


async def main(given: argparse.Namespace) -> None:
    """Try one container, then serve until a signal says that it is enough."""
    await run(spec_of(languages()["shell"], "true", given.bounds), check=True, timeout=20)
    if given.loop == "trio":
        from hypercorn.trio import serve
    else:
        from hypercorn.asyncio import serve
    listener = socket.create_server(
        (given.host, given.port), family=socket.AF_INET6 if ":" in given.host else socket.AF_INET
    )
    address, port = listener.getsockname()[:2]
    address = f"[{address}]" if ":" in address else address
    service = Service(given.bounds, given.jobs, given.waiting)
    app = make_app(service, hosts=["localhost", "127.0.0.1", "[::1]", address, *given.name])
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.loglevel = "WARNING"
    config.graceful_timeout = 5
    print(f"run_service: http://{address}:{port}/ (Ctrl-C ends it)", flush=True)
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

        async def until_told() -> None:
            async for _ in signals:
                service.close()
                return

        await serve(app, config, shutdown_trigger=until_told)


def start(given: argparse.Namespace) -> int:
    """The whole program, on the loop that was asked for."""
    options: dict[str, Any] = {"use_uvloop": True} if given.loop == "uvloop" else {}
    try:
        anyio.run(main, given, backend="trio" if given.loop == "trio" else "asyncio", backend_options=options)
    except CrecheError as error:
        print(f"run_service: no container can be had here: {error}", file=sys.stderr)
        print(
            "run_service: `creche doctor` tells what would change it; --no-limits does without control groups",
            file=sys.stderr,
        )
        return OURS
    except OSError as error:
        print(f"run_service: {given.host}:{given.port}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(start(arguments()))
