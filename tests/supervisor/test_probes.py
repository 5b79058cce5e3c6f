"""Probes that ask over a socket: what answers well is ready, and what stops doing so is replaced."""

from __future__ import annotations

import contextlib
import socket

import anyio
import pytest
from supervisor.fakes import World

from creche.supervisor import Connect, Http, Supervisor, events


@pytest.fixture
def world():
    return World()


class Server:
    """Answers each connection with the next of its answers, the last one again and again; `asked` has what was said."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []
        self.now = anyio.Event()

    async def serve(self, stream):
        async with stream:
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                self.asked.append(await stream.receive())
                await stream.send(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])


def status(line):
    return f"HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n".encode()


@contextlib.asynccontextmanager
async def listening(server, tmp_path, kind):
    """Its address as a probe takes it: a port, or the path of a Unix socket."""
    if kind == "port":
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        address = listener.extra(anyio.abc.SocketAttribute.local_port)
    else:
        address = str(tmp_path / "socket")
        listener = await anyio.create_unix_listener(address)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server.serve)
        yield address
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["port", "path"])
async def test_a_get_that_is_answered_well_makes_it_ready(world, tmp_path, kind):
    server = Server(
        status("503 Not yet"), b"rubbish\r\n", status("404 Not Found"), b"", status("204 No Content")
    )
    async with listening(server, tmp_path, kind) as address:
        child = world.child("a", readiness=Http(address, path="/health", every=0.001))
        async with Supervisor([child]) as sup:
            with anyio.fail_after(10):
                await sup.wait_ready()
    assert len(server.asked) == 5
    host = f"127.0.0.1:{address}" if kind == "port" else "127.0.0.1"
    assert server.asked[0].startswith(f"GET /health HTTP/1.1\r\nHost: {host}\r\n".encode())


@pytest.mark.parametrize("kind", ["port", "path"])
async def test_whoever_accepts_is_ready_and_nobody_is_before(world, tmp_path, kind):
    with socket.socket(socket.AF_INET if kind == "port" else socket.AF_UNIX) as listener:
        listener.bind(("127.0.0.1", 0) if kind == "port" else str(tmp_path / "socket"))  # nobody else's, and nobody listens
        address = listener.getsockname()[1] if kind == "port" else listener.getsockname()
        child = world.child("a", readiness=Connect(address, every=0.01), shutdown=0)
        async with Supervisor([child]) as sup:
            with pytest.raises(TimeoutError), anyio.fail_after(0.2):
                await sup.wait_ready()
            assert sup["a"].state == "starting"
            listener.listen()
            with anyio.fail_after(20):
                await sup.wait_ready()


async def test_answers_that_turn_bad_so_often_in_a_row_end_it(world, tmp_path):
    good, bad = status("200 OK"), status("500 Oops")
    server = Server(bad, good, bad, bad, bad, good)
    async with listening(server, tmp_path, "port") as address:
        child = world.child("a", liveness=Http(address, every=0.001, failures=3), shutdown=0.1)
        async with Supervisor([child], intensity=None) as sup:
            with anyio.fail_after(10):
                async for event in sup.events():
                    if isinstance(event, events.ChildEnded):
                        break
                await sup.wait_ready()
            why = event.record.why
            assert "failed 3 times in a row" in why and "500 Oops" in why and not event.record.clean
            assert sup["a"].life == 2
