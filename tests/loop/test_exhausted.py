"""No descriptors, no processes, no room, and an init that talks nonsense: typed errors, and nothing is left."""

from __future__ import annotations

import os
import signal
import socket
import struct

import anyio
import pytest
from loop.helpers import BOUND, SLEEPER, supervisor

from creche import Container, CrecheError, Reason, SpawnError, Spec
from creche.channel import Channel
from creche.wire import control
from creche.wire.control import REPLY_SIZE
from needs import needs

pytestmark = needs("native", "userns")

FEW = """
import gc, os, resource, sys, anyio, creche
from creche import Container, CrecheError, Spec
kind, backend = sys.argv[1:]
def fds():
    found = set()
    for fd in range(256):
        try:
            os.fstat(fd)
        except OSError:
            continue
        found.add(fd)
    return found
async def use(place):
    if kind == "main":
        async with Container(Spec(["true"])) as box:
            await box
    elif kind == "bare":
        async with Container(Spec(["true"], init=False)) as box:
            await box
    elif kind == "tty":
        async with Container(Spec(["true"], tty=True)) as box:
            await box
    elif kind == "user":
        async with Container(Spec(["true"], user="root")) as box:
            await box
    elif kind == "command":
        await place.run(["true"])
    elif kind == "later":
        await place.run(["sleep", "0.02"])
    elif kind == "large":
        await place.run(["true", *["x" * 1000] * 50])
    elif kind == "terminal":
        await place.run(["true"], tty=True)
    else:
        await place.get("/etc/passwd")
async def main():
    async with Container(Spec()) as place:
        await use(place)
        await anyio.sleep(0.05)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        before, refused = fds(), 0
        lowest = min(set(range(256)) - before)
        for more in range(60):
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + more, hard))
            try:
                with anyio.fail_after(20):
                    await use(place)
            except CrecheError as error:
                refused += 1
                assert getattr(error, "errno", None) == 24 or "24" in repr(error), repr(error)
                assert "descriptor" in str(error) or "open files" in str(error), str(error)
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            else:
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
                break
            for _ in range(200):
                if fds() == before:
                    break
                await anyio.sleep(0.01)
            assert fds() == before, (more, sorted(fds() - before), sorted(before - fds()))
        else:
            raise SystemExit("it never had enough")
        assert refused, "it was never short of any"
        await use(place)
    print("refused", refused, flush=True)
anyio.run(main, backend=backend)
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("kind", ["main", "bare", "tty", "user", "command", "later", "large", "terminal", "file"])
def test_descriptors_run_out_at_every_point(kind, backend):
    with supervisor(FEW, kind, backend) as process:
        assert process.stdout.read().startswith("refused")
    assert process.returncode == 0


NOBODY_MORE = """
import os, resource, sys, anyio, creche
async def main():
    if sys.argv[1] == "later":  # the thread that spawns is there already
        assert (await creche.run(["true"])).ok
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    try:
        await creche.run(["true"])
    except creche.SpawnError as error:
        print(error.errno, error, flush=True)
anyio.run(main)
"""


@needs("user")
@pytest.mark.parametrize("when", ["at once", "later"])
def test_processes_run_out(when):
    with supervisor(NOBODY_MORE, when) as process:
        printed = process.stdout.read()
    assert printed.startswith("11 ") and "nproc" in printed.lower()


# ---- an init that is not ours any more ----


@pytest.mark.parametrize("at", range(1, 4))
async def test_rubbish_at_any_point_is_an_end_and_no_hang(monkeypatch, at):
    """What decodes to nothing, as the so-manieth message: the container is killed and says so."""
    count, true = 0, control.decode

    def decode(data):
        nonlocal count
        count += 1
        return None if data and count == at else true(data)

    monkeypatch.setattr(control, "decode", decode)
    with anyio.fail_after(BOUND):
        try:
            async with Container(Spec(SLEEPER)) as box:
                result = await box.run(["sleep", "0.05"])
                assert result.exit.reason is Reason.LOST
        except CrecheError as error:
            assert str(error)


async def test_rubbish_while_others_wait(monkeypatch):
    async with Container(Spec(SLEEPER)) as box, anyio.create_task_group() as tasks:
        tasks.start_soon(box.wait)
        await anyio.wait_all_tasks_blocked()
        monkeypatch.setattr(control, "decode", lambda data: None)
        with anyio.fail_after(BOUND):
            with pytest.raises(CrecheError):
                async with box.open(["true"]):
                    pass
            exit = await box
        assert exit.reason is Reason.LOST


def pair():
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def message(kind, ident=1, status=0):
    return struct.pack("=2I2i9Q", kind, ident, status, 0, *[0] * 9).ljust(REPLY_SIZE, b"\0")


def seen():
    got = []

    def handle(reply, fds, pid):
        got.append((reply.type, reply.id, len(fds)))
        for fd in fds:
            os.close(fd)

    return got, handle


@pytest.mark.parametrize("rubbish", [b"x", b"\0" * (REPLY_SIZE - 1), b"\0" * (REPLY_SIZE + 1), b"\xff" * REPLY_SIZE, b"x" * 100_000])
async def test_a_message_of_no_known_form_ends_the_channel(rubbish):
    """E15 of the catalogue of attacks, with those below: what a guest who has become the init would say."""
    ours, theirs = pair()
    got, handle = seen()
    channel = Channel(ours, handle)
    theirs.send(message(control.READY))
    theirs.send(rubbish)
    theirs.send(message(control.STARTED))
    with anyio.fail_after(BOUND):
        await channel.until(lambda: False)
    assert channel.ended and channel.broken and got == [(control.READY, 1, 0)]
    channel.close()
    theirs.close()


async def test_descriptors_that_come_with_rubbish_are_closed():
    ours, theirs = pair()
    channel = Channel(ours, seen()[1])
    before = set(os.listdir("/proc/self/fd"))
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]
    socket.send_fds(theirs, [b"rubbish"], fds)
    for fd in fds:
        os.close(fd)
    await channel.until(lambda: False)
    assert channel.broken and set(os.listdir("/proc/self/fd")) == before
    channel.close()
    theirs.close()


async def test_more_descriptors_than_any_init_sends():
    ours, theirs = pair()
    _, handle = seen()
    channel = Channel(ours, handle)
    before = set(os.listdir("/proc/self/fd"))
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(60)]
    socket.send_fds(theirs, [message(control.STARTED)], fds)
    for fd in fds:
        os.close(fd)
    theirs.close()
    with anyio.fail_after(BOUND):
        await channel.until(lambda: False)
    assert set(os.listdir("/proc/self/fd")) - before == set()
    channel.close()


async def test_a_flood_leaves_the_loop_to_others():
    ours, theirs = pair()
    theirs.setblocking(False)
    channel = Channel(ours, lambda reply, fds, pid: None)
    turns = 0
    stop = False

    async def flood():
        while not stop:
            try:
                while True:
                    theirs.send(message(control.READY))
            except BlockingIOError:
                await anyio.lowlevel.checkpoint()

    async def other():
        nonlocal turns
        for _ in range(100):
            await anyio.lowlevel.checkpoint()
            turns += 1

    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flood)
            tasks.start_soon(channel.until, lambda: stop)
            await other()
            stop = True
            channel.wake()
            tasks.cancel_scope.cancel()
    assert turns == 100
    channel.close()
    theirs.close()


async def test_what_the_init_says_unasked_changes_nothing():
    """Ends before starts, starts twice, files nobody asked for, commands nobody knows."""
    async with Container(Spec(SLEEPER)) as box:
        before = set(os.listdir("/proc/self/fd"))
        for kind in (control.READY, control.STARTED, control.OPENED, control.START_FAILED, control.EXITED):
            for ident in (1, 2, 77, 2**32 - 1):
                if (kind, ident) == (control.EXITED, 1):
                    continue  # that it may say
                fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(2)]
                box._handle(control.decode(message(kind, ident)), fds, 1)
        assert set(os.listdir("/proc/self/fd")) == before
        assert not box._answers and set(box._processes) == {1}
        assert (await box.run(["echo", "x"])).stdout == b"x\n"


async def test_both_ends_full_is_no_standstill():
    """The init waits for us to read while we wait for it to: whoever sends reads on."""
    ours, theirs = pair()
    theirs.setblocking(False)
    got, handle = seen()
    channel = Channel(ours, handle)
    try:
        while True:
            theirs.send(message(control.EXITED))
    except BlockingIOError:
        pass
    sent = 0
    while channel.post(control.SIGNAL, 1, blob=bytes(10_000)):
        sent += 1
    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(channel.send, control.SIGNAL, 1)
            await anyio.wait_all_tasks_blocked()
            assert len(got) > 10  # read while sending
            for _ in range(sent + 3):
                while True:
                    try:
                        theirs.recv(1 << 16)
                        break
                    except BlockingIOError:
                        await anyio.lowlevel.checkpoint()
    theirs.close()
    with pytest.raises(BrokenPipeError):
        while True:
            await channel.send(control.SIGNAL, 1, number=signal.SIGTERM)
    channel.close()


async def test_sending_to_a_dead_init_is_the_containers_end():
    async with Container(Spec()) as box:
        os.kill(box.pid, signal.SIGKILL)
        with pytest.raises(CrecheError):
            for _ in range(100):
                await box.run(["true"])
        with pytest.raises(CrecheError) as caught:
            await box.run(["true"])
        assert not isinstance(caught.value, SpawnError)
