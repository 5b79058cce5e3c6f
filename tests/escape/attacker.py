"""What every hostile program of these tests begins with: raw calls, and an answer that says what was achieved.

This text runs inside containers, in front of a table of attacks; it needs Python's standard library and nothing else.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
from collections.abc import Callable

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
NUMBERS: dict[str, int] = {}  # filled from argv: a container has no table of its own
ATTACKS: dict[str, Callable[[], str]] = {}


class Held(Exception):
    """The attack ran to its end and got nothing: an answer like a refusal, but for one that no errno tells."""


def attack(name: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Enters a program under the catalogue's number and a few words. It returns what it achieved, or raises."""

    def enter(body: Callable[[], str]) -> Callable[[], str]:
        assert name not in ATTACKS, name
        ATTACKS[name] = body
        return body

    return enter


def call(name: str, *arguments: object) -> int:
    """A system call as such, past whatever a C library thinks of it."""
    converted = [value if isinstance(value, (bytes, type(None))) or hasattr(value, "_b_base_") else ctypes.c_long(value) for value in arguments]
    result = int(_libc.syscall(ctypes.c_long(NUMBERS[name]), *converted))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def reached(name: str, *arguments: object, by: tuple[int, ...]) -> str:
    """A call that must not go through in earnest: by an error which the kernel gives after the question of power."""
    try:
        call(name, *arguments)
    except OSError as error:
        if error.errno in by:
            return f"past the question of power ({error.strerror})"
        raise
    return "went through"


def lines(path: str) -> list[str]:
    with open(path) as file:
        return file.read().splitlines()


def prctl(*arguments: int) -> int:
    return call("prctl", *arguments, *[0] * (5 - len(arguments)))


def apart(body: Callable[[], object]) -> object:
    """What `body` gives in a process of its own, which it may ruin: (True, text), (False, errno's name), or "killed"."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.close(ours)
        os.write(theirs, json.dumps(_answer(body)).encode())
        os._exit(0)
    os.close(theirs)
    parts = b""
    while part := os.read(ours, 65536):
        parts += part
    os.close(ours)
    _, status = os.waitpid(child, 0)
    if not parts:
        how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"status {status}"
        return ["killed", how]
    return json.loads(parts)


def _answer(body: Callable[[], object]) -> list[str]:
    try:
        got = body()
    except Held as held:
        return ["held", str(held)]
    except OSError as error:
        return ["refused", errno.errorcode.get(error.errno or 0, str(error.errno))]
    except BaseException as error:  # noqa: BLE001 (a broken attack must be told from a held one)
        return ["broken", f"{type(error).__name__}: {error}"]
    return ["achieved", got] if isinstance(got, str) and got else ["broken", f"it gave {got!r}"]


def main() -> None:
    NUMBERS.update(json.loads(sys.argv[1]))
    together = sys.argv[3:] == ["together"]  # where no process can be made: one attack's ruins are the next one's ground
    for name in json.loads(sys.argv[2]):
        print(json.dumps([name, *(_answer(ATTACKS[name]) if together else apart(ATTACKS[name]))]), flush=True)
    print("the end", flush=True)
