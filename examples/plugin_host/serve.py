"""Runs inside a plug-in's container: loads the plug-in, and calls its functions as the host asks, one after the other.

A frame on descriptor 3 is its length in four bytes (big-endian) and so many bytes of JSON. Nothing here protects the
host: a plug-in can write on that descriptor itself.
"""

from __future__ import annotations

import json
import os
import runpy
import socket
from typing import Any


def receive(sock: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes; the end of the program where the host is gone."""
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            os._exit(0)
        data += part
    return data


def answer(functions: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """What one call gave, or the words of its exception. A call without a name asks whether we are there."""
    try:
        function = functions[request["method"]] if request["method"] else lambda: True
    except KeyError:
        return {"error": f"it has no function {request['method']}"}
    try:
        return {"value": function(*request["arguments"])}
    except Exception as error:  # noqa: BLE001 - a plug-in may raise what it likes, and the host is told of it
        return {"error": f"{type(error).__name__}: {error}"[:1000]}


def main() -> None:
    """Calls, until the host's end of the socket is closed."""
    # With its kind said, for Python would ask by getsockopt(2), which the strict filter refuses.
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, 3)
    functions = runpy.run_path("/plugin/plugin.py", run_name="plugin")
    while True:
        request = json.loads(receive(sock, int.from_bytes(receive(sock, 4), "big")))
        told = {"id": request["id"], **answer(functions, request)}
        try:
            body = json.dumps(told).encode()
        except (TypeError, ValueError, RecursionError) as error:
            body = json.dumps(
                {"id": request["id"], "error": f"its answer has no JSON: {error}"[:1000]}
            ).encode()
        sock.sendall(len(body).to_bytes(4, "big") + body)


if __name__ == "__main__":
    main()
