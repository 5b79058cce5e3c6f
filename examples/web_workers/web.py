"""A web application as a worker: it serves the socket it is handed, says when it is ready, and ends what it began."""

from __future__ import annotations

import os
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn

VERSION = os.environ.get("VERSION", "1")


class Page(BaseHTTPRequestHandler):
    """One page, which says who made it."""

    def do_GET(self) -> None:
        """Answer everything."""
        body = f"version {VERSION}, process {os.getpid()} of its container\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of each request."""


class Server(ThreadingMixIn, HTTPServer):
    """A server on a socket that somebody else listens on: number 3, as sd_listen_fds(3) tells it."""

    def __init__(self) -> None:
        super().__init__(("", 0), Page, bind_and_activate=False)
        self.socket.close()
        self.socket = socket.socket(fileno=3)
        self.socket.setblocking(False)  # another worker may be quicker to accept


def notify(message: bytes) -> None:
    """sd_notify(3)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(os.environ["NOTIFY_SOCKET"])
        sock.send(message)


def main() -> None:
    """Serve until SIGTERM, and then finish the requests that are under way."""
    assert os.environ["LISTEN_PID"] == str(os.getpid())
    server = Server()
    # shutdown() waits for the loop that the signal interrupted, so it needs a thread of its own.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    notify(b"READY=1\nSTATUS=serving version " + VERSION.encode())
    server.serve_forever(poll_interval=0.05)
    notify(b"STOPPING=1")
    server.server_close()  # waits for the threads of requests, and closes its copy of the socket


if __name__ == "__main__":
    main()
