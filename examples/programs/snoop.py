"""Looks for what it should not have, and says what it found."""

import os
import socket
from pathlib import Path


def attempt(what: str, function) -> None:
    try:
        print(f"{what}: {function()!r}")
    except OSError as error:
        print(f"{what}: {error.strerror}")


attempt("the host's passwords", lambda: Path("/etc/shadow").read_text())
attempt("the host's processes", lambda: [pid for pid in os.listdir("/proc") if pid.isdigit()])
attempt("a secret in the environment", lambda: sorted(os.environ))
attempt("the internet", lambda: socket.create_connection(("198.51.100.1", 80), timeout=2))
attempt("the host's name", lambda: socket.sethostname("mine"))
attempt("another root", lambda: os.chroot("/tmp"))
