"""Serves an online judge: a page on which people submit programs in C and Python, and watch what comes of them.

pip install 'creche[web]'
python examples/judge
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import attrs

from creche import CrecheError, run

try:
    from app import Service, make_app
    from hypercorn.config import Config
    from judging import available, run_spec
    from problems import Problem, load
except ModuleNotFoundError as error:
    sys.exit(f"judge: {error}: the web framework is an extra, so say: pip install 'creche[web]'")

OURS = 125


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """What was asked for; exits with status 2 and a sentence where that makes no sense."""
    processors = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog="judge", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="the address to listen at (default: this machine alone)")
    add("--port", type=int, default=8000, help="0 is any that is free (default: 8000)")
    add("--name", action="append", default=[], metavar="HOST", help="a name by which browsers may call it")
    add(
        "--problems",
        type=Path,
        default=Path(__file__).parent / "problems",
        metavar="FOLDER",
        help="of .toml files",
    )
    add(
        "-j",
        "--jobs",
        type=int,
        default=processors,
        metavar="N",
        help="submissions at a time (default: processors)",
    )
    add("--waiting", type=int, default=100, metavar="N", help="submissions that may wait (default: 100)")
    add(
        "--rlimits",
        action="store_true",
        help="without control groups: setrlimit(2) for each process, which bounds less",
    )
    add("--loop", choices=("asyncio", "trio", "uvloop"), default="asyncio", help="(default: asyncio)")
    given = parser.parse_args(words)
    if given.jobs < 1 or given.waiting < 1:
        parser.error("--jobs and --waiting: at least 1")
    try:
        given.problems = load(given.problems)
    except ValueError as error:
        parser.error(str(error))
    if not available():
        parser.error("there is neither gcc nor python3 in /usr/bin")
    return given


async def main(given: argparse.Namespace) -> None:
    """Try one container, then serve until a signal says that it is enough."""
    some: Problem = next(iter(given.problems.values()))
    language = next(iter(available().values()))
    # With the bounds of every other run: what can't be enforced here is refused now, and not at the first submission.
    spec = attrs.evolve(run_spec(language, b"", some, not given.rlimits), command=["true"])
    await run(spec, check=True, timeout=20)
    kind = "trio" if given.loop == "trio" else "asyncio"
    serve = importlib.import_module(f"hypercorn.{kind}").serve
    family = socket.AF_INET6 if ":" in given.host else socket.AF_INET
    listener = socket.create_server((given.host, given.port), family=family)
    address, port = listener.getsockname()[:2]
    address = f"[{address}]" if ":" in address else address
    service = Service(given.problems, given.jobs, given.waiting, not given.rlimits)
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.loglevel = "WARNING"
    config.graceful_timeout = 5
    print(f"judge: http://{address}:{port}/ (Ctrl-C ends it)", flush=True)
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

        async def until_told() -> None:
            async for _ in signals:
                service.close()
                return

        async with service.working():
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
        print(f"judge: no container with these limits can be had here: {error}", file=sys.stderr)
        print("judge: `creche doctor` tells what would change it; --rlimits does with less", file=sys.stderr)
        return OURS
    except OSError as error:
        print(f"judge: {given.host}:{given.port}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(start(arguments()))
