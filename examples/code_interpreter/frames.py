"""Frames of JSON on a socket whose other end is a guest's: bounded in length, in number and in depth."""

from __future__ import annotations

import json
import socket
from typing import Any

import anyio

__all__ = ["BadFrame", "Ended", "Frames"]


class BadFrame(Exception):
    """The guest sent what is no frame; the text says what."""


class Ended(BadFrame):
    """The guest has closed its end, most likely by its death."""

    def __init__(self) -> None:
        super().__init__("it has closed its end")


class Frames:
    """One end of a socket pair, held by the loop."""

    def __init__(self, sock: socket.socket, most: int) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._most = most  #: bytes of one frame
        self._kept = bytearray()

    def close(self) -> None:
        """The guest sees the end of the file."""
        self._sock.close()

    async def send(self, fields: dict[str, Any]) -> None:
        """Send one. Raises BadFrame where the guest is gone; waits for a guest that does not read."""
        body = json.dumps(fields).encode()
        view = memoryview(len(body).to_bytes(4, "big") + body)
        while view:
            try:
                view = view[self._sock.send(view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._sock)
            except OSError:
                raise Ended from None

    async def receive(self) -> dict[str, Any]:
        """The next one. Raises BadFrame for nonsense and at the end; cancelled, it loses nothing."""
        while True:
            if len(self._kept) >= 4:
                length = int.from_bytes(self._kept[:4], "big")
                if length > self._most:
                    raise BadFrame(f"a frame of {length} bytes: at most {self._most} are taken")
                if len(self._kept) >= 4 + length:
                    body = bytes(self._kept[4 : 4 + length])
                    del self._kept[: 4 + length]
                    return self._parsed(body)
            await anyio.lowlevel.checkpoint()
            try:
                data = self._sock.recv(65_536)
            except BlockingIOError:
                await anyio.wait_readable(self._sock)
                continue
            except OSError:
                data = b""
            if not data:
                raise Ended
            self._kept += data

    @staticmethod
    def _parsed(body: bytes) -> dict[str, Any]:
        try:
            found = json.loads(body)
        except (ValueError, RecursionError) as error:  # brackets within brackets within brackets
            raise BadFrame(f"no JSON: {type(error).__name__}") from None
        if not isinstance(found, dict):
            raise BadFrame("no JSON object")
        return found
