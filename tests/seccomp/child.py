"""Runs a program, or makes calls, in a child that has put a filter on itself: what the kernel says, not a model."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from creche.plan.seccomp import Filter

# In the child: no_new_privs, the filter, then the code. raw() makes a call and gives its errno, or 0.
_PREFACE = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
SECCOMP = {"x86_64": 317, "aarch64": 277}[os.uname().machine]

class Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))

def install(program, flags=0):
    if libc.prctl(38, 1, 0, 0, 0):
        sys.exit("no_new_privs refused")
    fprog = Program(len(program) // 8, program)
    got = libc.syscall(SECCOMP, 1, flags, ctypes.byref(fprog))
    if got < 0:
        sys.exit("filter refused: " + os.strerror(ctypes.get_errno()))
    return got

def raw(number, *args):
    ctypes.set_errno(0)
    got = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(value & (1 << 64) - 1) for value in args))
    return ctypes.get_errno() if got == -1 else 0

filter = bytes.fromhex(sys.argv[1])
"""


def python(filter: Filter | None, code: str, *arguments: str) -> Any:
    """Run Python under a filter (None: a control without one) and give back the JSON that it prints.

    The code has `raw(number, *args)` and `sys.argv[2:]`; it may print what it likes on stderr.
    """
    program = filter.program.hex() if filter else ""
    text = f"{_PREFACE}\nif filter: install(filter)\n{code}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", text, program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr}"
    return json.loads(done.stdout)


def status(filter: Filter | None, code: str) -> int:
    """Run Python under a filter for its exit status alone, negative for a signal."""
    text = f"{_PREFACE}\nif filter: install(filter)\n{code}"
    program = filter.program.hex() if filter else ""
    return subprocess.run([sys.executable, "-I", "-c", text, program], timeout=60, check=False).returncode


def command(filter: Filter, argv: list[str], **keywords: Any) -> subprocess.CompletedProcess[str]:
    """Run a command under a filter."""
    text = f"{_PREFACE}\ninstall(filter)\nos.execvp(sys.argv[2], sys.argv[2:])"
    return subprocess.run(
        [sys.executable, "-I", "-c", text, filter.program.hex(), *argv],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **keywords,
    )
