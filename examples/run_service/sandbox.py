"""One program of a stranger's, in a container of its own, told of as it happens."""

from __future__ import annotations

import codecs
import contextlib
import math
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
import attrs

from creche import Container, Exit, File, Limits, Reason, Spec

__all__ = ["Bounds", "Language", "Tell", "languages", "play", "spec_of"]

Tell = Callable[..., Awaitable[None]]
"""Called with the name of an event and its fields; awaited, so a slow reader slows the program down."""


@dataclass(frozen=True)
class Language:
    """How a program is run: what it is called, where it lies inside, and the argv."""

    name: str
    file: str
    command: tuple[str, ...]
    example: str
    needs: str  #: the host's program without which it can't be had


_ALL = {
    "python": Language(
        "Python",
        "/work/program.py",
        ("python3", "-u", "/work/program.py"),
        'import time\n\nfor n in range(1, 6):\n    print(n, "squared is", n * n)\n    time.sleep(0.4)\n',
        "python3",
    ),
    "shell": Language(
        "Shell",
        "/work/program.sh",
        ("sh", "/work/program.sh"),
        'echo "I am $(id -un) on $(hostname), and these are all processes I see:"\nls -d /proc/[0-9]*\n',
        "sh",
    ),
    "c": Language(
        "C",
        "/work/program.c",
        ("sh", "-c", "cc -Wall -O1 -o /tmp/program /work/program.c && exec /tmp/program"),
        '#include <stdio.h>\n\nint main(void)\n{\n\tputs("compiled and run in a container");\n\treturn 0;\n}\n',
        "cc",
    ),
    "javascript": Language(
        "JavaScript",
        "/work/program.js",
        ("node", "/work/program.js"),
        "console.log([1, 2, 3].map(n => n ** n))\n",
        "node",
    ),
    "perl": Language(
        "Perl", "/work/program.pl", ("perl", "/work/program.pl"), 'print "$_\\n" for 1..5;\n', "perl"
    ),
}


def languages() -> dict[str, Language]:
    """Those that a container can have: HostView shows it the host's own programs."""
    return {
        key: it for key, it in _ALL.items() if shutil.which(it.needs, path="/usr/local/bin:/usr/bin:/bin")
    }


@dataclass(frozen=True)
class Bounds:
    """What each run may use."""

    limits: Limits = field(default_factory=Limits)
    timeout: float = math.inf  #: seconds, the start included
    output: float = math.inf  #: bytes of both streams together


def spec_of(language: Language, program: str, bounds: Bounds) -> Spec:
    """The container: a Spec is pure data, so this starts nothing and can be tested by looking at it."""
    return Spec(
        language.command,
        mounts=[File(language.file, program.encode())],
        cwd="/tmp",
        hostname="sandbox",
        limits=bounds.limits,
        rlimits={"core": 0, "nofile": 256},
    )


async def play(
    language: Language,
    program: str,
    stdin: bytes,
    bounds: Bounds,
    tell: Tell,
    running: Callable[[Container], None],
) -> None:
    """Run it to its end: `running` gets the container, `tell` gets ``output`` events and one ``exit``.

    Cancelled, it returns when the container is dead and cleaned up. Raises CrecheError when it can't be started.
    """
    box = Container(spec_of(language, program, bounds))
    why: dict[str, Any] = {}  # what we killed it for, if we did
    written = 0

    async def feed() -> None:
        assert box.stdin is not None
        # Whether it reads its input is its own business.
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await box.stdin.send(stdin)
        await box.stdin.aclose()

    async def relay(stream: str) -> None:
        nonlocal written
        pipe = box.stdout if stream == "out" else box.stderr
        assert pipe is not None
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        async for chunk in pipe:
            written += len(chunk)
            if written > bounds.output:
                why.setdefault("reason", Reason.OUTPUT_LIMIT)
                why.setdefault("value", bounds.output)
                box.kill()
                return
            if text := decode(chunk):  # nothing yet, where a character came in two halves
                await tell("output", stream=stream, text=text)
        if text := decode(b"", True):
            await tell("output", stream=stream, text=text)

    with anyio.move_on_after(bounds.timeout) as time:
        async with box:
            running(box)
            async with anyio.create_task_group() as tasks:
                for job in (feed, lambda: relay("out"), lambda: relay("err")):
                    tasks.start_soon(job)
                await box
                tasks.cancel_scope.deadline = anyio.current_time() + 2  # its last words are in the pipes
    if time.cancelled_caught and not why:
        why = {"reason": Reason.TIMEOUT, "value": bounds.timeout}
    exit = box.exit or Exit(None, 9, Reason.KILLED)
    if why:
        limit = "timeout" if why["reason"] is Reason.TIMEOUT else "output"
        detail = exit.detail | {"limit_value": float(why["value"])}
        exit = attrs.evolve(exit, reason=why["reason"], limit=limit, detail=detail)
    await tell(
        "exit",
        ok=exit.ok,
        reason=exit.reason.value,
        code=exit.code,
        signal=exit.signal,
        sentence=exit.explain(),
        wall=exit.usage.wall,
        cpu=exit.usage.cpu if exit.usage.scope == "container" or exit.reason is Reason.EXITED else None,
        memory=exit.usage.memory_peak
        if exit.usage.scope == "container" or exit.reason is Reason.EXITED
        else None,
    )
