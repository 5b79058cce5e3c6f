"""Runs inside the container: executes cells in one namespace, and tells of them in frames on a socket.

A frame is its length in four bytes (big-endian) and so many bytes of JSON. What cells print goes to the ordinary
standard output and is no frame. Needs nothing but Python's standard library.
"""

from __future__ import annotations

import ast
import base64
import json
import os
import signal
import socket
import sys
import traceback
from typing import Any

TEXT = 64 << 10  # characters of a result or a traceback
PICTURE = 2 << 20  # bytes
PICTURES = 8  # of one cell
KINDS = (".png", ".jpg", ".jpeg", ".gif")


def receive(sock: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes; the end of the program where the supervisor is gone."""
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            os._exit(0)
        data += part
    return data


def send(sock: socket.socket, **fields: Any) -> None:
    """One frame."""
    body = json.dumps(fields).encode()
    sock.sendall(len(body).to_bytes(4, "big") + body)


def pictures() -> dict[str, tuple[int, int]]:
    """The pictures in the working directory, with what changes when they are written again."""
    found = {}
    for entry in os.scandir():
        if entry.name.lower().endswith(KINDS) and entry.is_file(follow_symlinks=False):
            seen = entry.stat(follow_symlinks=False)
            found[entry.name] = (seen.st_mtime_ns, seen.st_size)
    return found


def execute(code: str, names: dict[str, Any]) -> Any:
    """Run a cell; the value of its last line where that is an expression."""
    tree = ast.parse(code, "<cell>")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    if not isinstance(last, ast.Expr):
        return None
    value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    if value is not None:
        names["_"] = value
    return value


def cell(sock: socket.socket, code: str, names: dict[str, Any]) -> None:
    """Execute one, and tell of its value, its error and the pictures that it wrote."""
    before = pictures()
    told: dict[str, Any] | None = None
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            value = execute(code, names)
            if value is not None:
                told = {"kind": "result", "text": repr(value)[:TEXT]}
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except BaseException as error:  # noqa: BLE001 - a cell may raise what it likes, SystemExit too
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt may come just as we stop listening to it
        own = error.__traceback__ and error.__traceback__.tb_next  # without our own frames
        lines = traceback.format_exception(type(error), error, own and own.tb_next)
        told = {"kind": "error", "name": type(error).__name__, "traceback": "".join(lines)[-TEXT:]}
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass  # the cell closed it
    if told is not None:
        send(sock, **told)
    now = pictures()
    for name in [name for name in now if now[name] != before.get(name)][:PICTURES]:
        if now[name][1] <= PICTURE:
            with open(name, "rb") as file:
                data = file.read(PICTURE)
            send(sock, kind="picture", name=name[:200], data=base64.b64encode(data).decode())


def main() -> None:
    """Cells, until the supervisor's end of the socket is closed."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    names: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    sys.argv = [""]
    while True:
        length = int.from_bytes(receive(sock, 4), "big")
        request = json.loads(receive(sock, length))
        try:
            cell(sock, request["code"], names)
        except OSError as error:  # its working directory is gone, say
            send(sock, kind="error", name="OSError", traceback=str(error))
        send(sock, kind="done", id=request["id"])


if __name__ == "__main__":
    main()
