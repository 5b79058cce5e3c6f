"""Sockets that the supervisor holds: told as sd_listen_fds(3) has it, and no connection refused while workers change."""

from __future__ import annotations

import socket

import anyio
import pytest
from attrs import evolve

from creche.errors import SpecError
from creche.spec import Namespaces, Spec
from creche.supervisor import ChildSpec, Connect, Line, Supervisor
from needs import needs

WORKER = """
import os, select, signal, socket, sys
assert os.environ["LISTEN_PID"] == str(os.getpid()), os.environ["LISTEN_PID"]
assert (os.environ["LISTEN_FDS"], os.environ["LISTEN_FDNAMES"]) == ("1", "web")
listener = socket.socket(fileno=3)
listener.setblocking(False)
stopping = False
def stop(*_):
    global stopping
    stopping = True
signal.signal(signal.SIGTERM, stop)
print("up", flush=True)
while not stopping:
    if select.select([listener], [], [], 0.01)[0]:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            continue  # another worker was quicker
        connection.setblocking(True)
        with connection:
            connection.recv(1000)
            connection.sendall(sys.argv[1].encode())
"""


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        yield listener


async def ask(address):
    async with await anyio.connect_tcp(*address) as stream:
        await stream.send(b"hello")
        return await stream.receive()


@needs("userns")
async def test_no_connection_is_refused_in_rolling_reloads_under_load(listener, anyio_backend):
    address = listener.getsockname()
    spec = Spec(["python3", "-u", "-c", WORKER, "v0"])
    child = ChildSpec("web", spec, count=2, listen=["web"], readiness=Line("up"))
    answers = []

    async def load():
        while True:
            answers.append(await ask(address))

    with anyio.fail_after(60):
        async with Supervisor([child], sockets={"web": listener}) as sup:
            await sup.wait_ready()
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(load)
                for version in ("v1", "v2", "v3"):
                    changed = evolve(child, spec=evolve(spec, command=[*spec.command[:-1], version]))
                    told = await sup.reload([changed])
                    assert told.failed is None and told.changed == ("web.1", "web.2")
                    answers.append(await ask(address))
                    assert answers[-1] == version.encode()
                tasks.cancel_scope.cancel()
    assert set(answers) == {b"v0", b"v1", b"v2", b"v3"}


@needs("userns")
async def test_a_connection_made_while_all_workers_are_down_is_served_by_the_next(listener, anyio_backend):
    spec = Spec(["python3", "-u", "-c", WORKER, "late"])
    child = ChildSpec("web", spec, listen=["web"], readiness=Line("up"))
    with anyio.fail_after(30):
        async with Supervisor([child], sockets={"web": listener}) as sup:
            await sup.wait_ready()
            await sup.stop("web")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, listener.getsockname())
                await anyio.wait_all_tasks_blocked()
                sup.start("web")


@needs("userns")
async def test_a_probe_reaches_what_listens_on_a_handed_socket(listener, anyio_backend):
    port = listener.getsockname()[1]
    spec = Spec(["python3", "-u", "-c", WORKER, "x"])
    child = ChildSpec("web", spec, listen=["web"], readiness=Connect(port))
    with anyio.fail_after(30):
        async with Supervisor([child], sockets={"web": listener}) as sup:
            await sup.wait_ready()


async def test_what_cannot_be_handed_in_is_refused(listener):
    for spec, listen, wish in (
        (Spec(["x"]), ["other"], "the supervisor's sockets are: web"),
        (Spec(["x"], pass_fds=[3]), ["web"], "takes the numbers from 3 on"),
        (Spec(["x"], namespaces=Namespaces(pid=False)), ["web"], "LISTEN_PID"),
    ):
        with pytest.raises(SpecError, match=wish):
            async with Supervisor([ChildSpec("web", spec, listen=listen)], sockets={"web": listener}):
                pass
