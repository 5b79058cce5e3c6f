"""A fork of the host program has all descriptors of a container, which is not its own: it ends nothing there, and takes no news of it."""

from __future__ import annotations

import os
import signal
import warnings

import anyio
import pytest
from loop.helpers import BOUND

from creche import Container, Reason, Security, Spec
from creche.process import is_dead
from needs import needs

pytestmark = needs("native", "userns")


def in_a_fork(what):
    """Run it there; what it raised, as text."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork beside threads, of which creche has some
        pid = os.fork()
    if not pid:
        said = b""
        try:
            what()
        except BaseException as error:  # noqa: BLE001
            said = f"{type(error).__name__}: {error}".encode()
        finally:
            os.write(write, said)
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        said = file.read().decode()
    os.waitpid(pid, 0)
    return said


def driven(coroutine):
    """Step a coroutine that has nothing to wait for."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


ORDERS = {
    "kill": lambda one: one.kill(),
    "terminate": lambda one: one.terminate(),
    "send_signal": lambda one: one.send_signal(signal.SIGKILL),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["container", "place", "process"])
async def test_orders_of_a_fork_are_refused(kind, order):
    async with Container(Spec() if kind == "place" else Spec(["cat"])) as box, box.open(["cat"]) as process:
        one = process if kind == "process" else box
        if kind == "place" and order == "send_signal":
            said = in_a_fork(lambda: box.send_signal(signal.SIGKILL, all=True))
        else:
            said = in_a_fork(lambda: ORDERS[order](one))
        assert said.startswith("CrecheError: the container belongs to the process that started it"), said
        await process.stdin.send(b"still here")
        assert await process.stdout.receive() == b"still here"
        assert box.exit is None and process.exit is None
        ORDERS["kill"](one)  # the control: here it is obeyed
        with anyio.fail_after(BOUND):
            await process.wait()
        assert process.exit.reason is Reason.KILLED or kind == "container"


@pytest.mark.parametrize("of", ["command", "container"])
async def test_a_fork_that_leaves_the_block_ends_nothing(of):
    async with Container(Spec()) as box, box.open(["cat"]) as process:
        assert in_a_fork(lambda: driven(process.aclose() if of == "command" else box.__aexit__())) == ""
        await process.stdin.send(b"still here")
        assert await process.stdout.receive() == b"still here"


WAITS = {
    "end": lambda box, process: box.wait(),
    "command": lambda box, process: process.wait(),
    "output": lambda box, process: process.stdout.receive(),
    "room": lambda box, process: process.stdin.send(b"\n" + bytes(1 << 20)),
    "reports": lambda box, process: anext(box.violations()),
}


@pytest.mark.parametrize("wait", WAITS)
async def test_nor_does_it_end_what_somebody_waits_for(wait):
    """Trio's loop runs on in a fork, and shares its epoll: what is told there that it goes would be lost for the parent."""
    refusing = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdirat", "mkdir"], "action": "SCMP_ACT_ERRNO"}]}
    async with Container(Spec(["sleep", "1000"], security=Security(seccomp=refusing, seccomp_report=True))) as box:
        async with box.open(["sh", "-c", "read go; mkdir /tmp/x; echo said; cat >/dev/null; exit 3"]) as process:
            process.send_signal(signal.SIGSTOP)
            heard = []

            async def waits():
                heard.append(await WAITS[wait](box, process))

            with anyio.fail_after(BOUND):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(waits)
                    await anyio.wait_all_tasks_blocked()
                    assert not heard and in_a_fork(lambda: (driven(box.__aexit__()), driven(process.aclose()))) == ""
                    process.send_signal(signal.SIGCONT)
                    if wait == "end":
                        box.kill()
                    elif wait != "room":
                        await process.stdin.send(b"\n")
                        if wait == "command":
                            await process.stdin.aclose()
            assert len(heard) == 1


async def test_nor_the_end_of_one_without_an_init():
    async with Container(Spec(["sleep", "1000"], init=False)) as box:
        with anyio.fail_after(BOUND):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(box.wait)
                await anyio.wait_all_tasks_blocked()
                assert in_a_fork(lambda: driven(box.__aexit__())) == ""
                box.kill()
        assert box.exit.reason is Reason.KILLED


async def test_a_fork_that_looks_takes_no_news_away():
    async with Container(Spec()) as box:
        async with box.open(["cat"]) as process:
            await process.stdin.aclose()
            assert is_dead(process.pidfd, BOUND) and process._exit is None  # its news lies in the socket
            assert in_a_fork(lambda: (process.exit, box.exit)) == ""
            with anyio.fail_after(BOUND):
                assert await process.wait() == 0


async def test_a_fork_can_neither_wait_nor_run():
    async with Container(Spec()) as box:

        def wait():
            box.wait().send(None)

        def run():
            box.run(["true"]).send(None)

        assert "is a fork of that: use it there" in in_a_fork(wait)
        assert in_a_fork(run)  # where it is asyncio's, no loop runs in a fork, which is told first
        assert (await box.run(["true"])).ok
