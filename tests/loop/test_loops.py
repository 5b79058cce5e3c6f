"""Several loops: in threads, one after the other, of both kinds; and containers that nobody closed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import anyio
import pytest
import trio
from loop.helpers import BOUND, SLEEPER, below, others, shell, wait_for

import creche
from creche import Container, CrecheError, Reason, Spec
from needs import needs

pytestmark = needs("native", "userns")

KINDS = [("asyncio", {}), ("asyncio", {"use_uvloop": True}), ("trio", {})]


async def some_work():
    async with Container(Spec(SLEEPER)) as box:
        for number in range(3):
            assert (await box.run(["echo", str(number)])).stdout == b"%d\n" % number
        box.kill()
        assert (await box).reason is Reason.KILLED
    assert (await creche.run(["cat"], input=b"x")).stdout == b"x"


def run(kind, function=some_work):
    anyio.run(function, backend=kind[0], backend_options=kind[1])


def test_one_after_the_other():
    for kind in [*KINDS, *reversed(KINDS)]:
        run(kind)


def test_without_anyio_around():
    asyncio.run(some_work())
    trio.run(some_work)


def test_several_loops_at_once_in_threads_of_their_own():
    errors = []

    def guarded(kind):
        try:
            run(kind)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(kind,)) for kind in KINDS * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors and not any(thread.is_alive() for thread in threads)


def test_a_loop_that_does_not_come_round_keeps_no_other_from_starting():
    """Only so many starts are under way at once (native/pool.c); those of a loop that is stuck count for a moment only."""
    begun, stuck, go_on = threading.Barrier(2), [], threading.Event()

    async def sticks():
        async def start():
            async with Container(Spec(SLEEPER)) as box:
                stuck.append(box)

        async with anyio.create_task_group() as tasks:
            for _ in range(32):
                tasks.start_soon(start)
            await anyio.sleep(0)
            begun.wait(BOUND)
            go_on.wait(BOUND)  # on the loop's own thread

    thread = threading.Thread(target=lambda: run(KINDS[0], sticks))
    thread.start()
    try:
        begun.wait(BOUND)
        run(KINDS[0])
        assert not stuck, "it was not stuck"
    finally:
        go_on.set()
        thread.join(BOUND)
    assert len(stuck) == 32


def test_the_end_of_a_thread_is_no_end_of_its_containers_makers():
    """The thread that made a spawn's first step may end at once: nothing hangs on it (PR_SET_PDEATHSIG would)."""
    boxes = []

    async def main():
        async with Container(Spec(SLEEPER)) as box:
            boxes.append(box)
            assert await anyio.to_thread.run_sync(lambda: box.exit) is None
            await anyio.sleep(0.05)
            assert box.exit is None

    thread = threading.Thread(target=lambda: run(KINDS[0], main))
    thread.start()
    thread.join(BOUND)
    assert boxes[0].exit.reason is Reason.KILLED


@contextlib.contextmanager
def collected_with_a_warning():
    gc.collect()
    mine = below(os.getpid())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect()
    said = [str(item.message) for item in caught if item.category is ResourceWarning and "Container" in str(item.message)]
    assert len(said) == 1 and "async with" in said[0]
    wait_for(lambda: below(os.getpid()) <= mine, "the death of what was collected")


@pytest.mark.parametrize("fields", [{}, {"init": False}, {"tty": True}])
async def test_collected_without_closing_it_is_killed_with_a_warning(fields):
    with collected_with_a_warning():
        box = Container(Spec(SLEEPER, **fields))
        await box.__aenter__()
        del box


async def test_collected_where_the_finalizer_of_its_socket_came_first():
    """As it may where both are collected together, in a cycle: the order is the collector's."""
    with collected_with_a_warning():
        box = Container(Spec(SLEEPER))
        await box.__aenter__()
        box._channel._socket.close()
        del box


async def test_collected_after_its_end():
    with collected_with_a_warning():
        box = Container(Spec(shell("echo x")))
        await box.__aenter__()
        await box.wait()
        del box


async def test_collected_in_the_midst_of_its_grace():
    with collected_with_a_warning():
        box = Container(Spec(SLEEPER))
        await box.__aenter__()
        os.kill(box.pid, signal.SIGSTOP)  # it lives on until then, and a clock runs for it
        box.terminate(grace=3600)
        del box


async def test_what_was_never_started_may_be_forgotten():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Container(Spec(SLEEPER))
        gc.collect()


@pytest.mark.parametrize("kind", KINDS)
def test_collected_when_its_loop_is_gone(kind):
    with collected_with_a_warning():
        held = []

        async def main():
            box = Container(Spec(SLEEPER))
            await box.__aenter__()
            held.append(box)

        run(kind, main)
        held.clear()


def test_from_another_loops_thread_it_can_be_killed_and_nothing_else():
    """Who waits would be woken by the other loop, at the wrong time or never."""
    begun, over, boxes = threading.Event(), threading.Event(), []

    async def holds():
        async with Container(Spec(SLEEPER)) as box:
            boxes.append(box)
            begun.set()
            assert (await box).reason is Reason.KILLED
            over.set()

    async def strange():
        box = boxes[0]
        try:
            for use in (box.wait, lambda: box.run(["true"]), lambda: box.get("/etc/passwd"), lambda: box.put("/tmp/x", b"")):
                with pytest.raises(CrecheError, match="the loop of another thread"):
                    await use()
        finally:
            box.kill()

    thread = threading.Thread(target=run, args=(KINDS[0], holds), daemon=True)
    thread.start()
    assert begun.wait(BOUND)
    run(KINDS[2], strange)
    assert over.wait(BOUND)
    thread.join(BOUND)


CLOSED = """
import asyncio, os, sys, uvloop
import creche
from creche import Container, Spec

boxes = []

async def holds(how):
    async with Container(Spec(["sleep", "1000"])) as box:
        boxes.append((box, box.init_pid))
        await {"end": box.wait, "read": box.stdout.receive, "another": lambda: box.run(["sleep", "1000"])}[how]()

async def for_a_while():
    while not boxes:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)

def abandon(loop, how):
    task = loop.create_task(holds(how))
    loop.run_until_complete(for_a_while())
    loop.close()
    task._log_destroy_pending = False  # it stays pending for good
    return boxes.pop()

for new in (asyncio.new_event_loop, uvloop.new_event_loop):
    for how in ("end", "read", "another"):
        box, pid = abandon(new(), how)
        os.kill(pid, 0)  # the collector does not find it: this is the control
        if sys.argv[1] == "asyncio":
            asyncio.run(creche.run(["true"]))
        else:
            import trio
            trio.run(creche.run, ["true"])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            print(how, box.exit.reason.name, box.exit.detail["killed_by"])
"""


@pytest.mark.parametrize("next_loop", ["asyncio", "trio"])
def test_what_a_closed_loop_left_is_ended_by_the_next_start(next_loop):
    """Whichever loop that start is on; the closed one is held by what waits on it, and so are its containers."""
    done = subprocess.run([sys.executable, "-W", "always", "-c", CLOSED, next_loop], capture_output=True, text=True, check=False, timeout=BOUND)
    assert done.stdout.splitlines() == [f"{how} KILLED its loop, which was closed" for how in ("end", "read", "another")] * 2, done.stderr
    assert done.stderr.count("was left by a loop that was closed under its tasks") == 6, done.stderr


def test_ctrl_c_in_asyncio_run_leaves_nothing():
    async def main():
        async with Container(Spec(SLEEPER)):
            os.kill(os.getpid(), 2)
            await anyio.sleep(BOUND)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())


async def test_the_loop_is_not_held_by_a_spawn():
    """Its thread does the Python half alone: while children are made, others on the loop have their turns."""
    async with others() as turns:
        for _ in range(50):  # on a busy machine a child may be done before we are back at the loop
            before = turns.taken
            await creche.run(["true"])
            if turns.taken - before > 5:
                break
        else:
            raise AssertionError(f"{turns.taken} turns in all")


@pytest.mark.slow
async def test_fifty_containers_at_once():
    await crowd(50)


@pytest.mark.long
async def test_two_hundred_containers_at_once():
    await crowd(200)


async def crowd(number):
    boxes = []
    async with anyio.create_task_group() as tasks:
        everybody = anyio.Event()

        async def one(index):
            async with Container(Spec(["cat"])) as box:
                boxes.append(box)
                if len(boxes) == number:
                    everybody.set()
                await everybody.wait()
                await box.stdin.send(b"%d" % index)
                await box.stdin.aclose()
                assert await box.stdout.receive() == b"%d" % index
                assert (await box).ok

        with anyio.fail_after(120):
            for index in range(number):
                tasks.start_soon(one, index)
            await everybody.wait()
            assert len({box.id for box in boxes}) == len({box.pid for box in boxes}) == number


async def test_creche_keeps_few_threads_and_none_for_waiting():
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(Container(Spec(SLEEPER)))
        names = []
        for path in Path("/proc/self/task").glob("*/comm"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                names.append(path.read_text().strip())
        assert 0 < sum(name.startswith("creche") for name in names) <= 8
        assert sum(not name.startswith(("creche", "python", "pytest", "Trio", "libuv", "iou-")) for name in names) == 0, names


FORGOTTEN = """
import anyio, creche, sys
box = creche.Container(creche.Spec(["sleep", "999"]))
async def main():
    await box.__aenter__()
    print(box.pid)
anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_one_that_is_forgotten_until_the_program_ends_is_gone_without_a_word(backend):
    done = subprocess.run([sys.executable, "-c", FORGOTTEN, backend], capture_output=True, text=True, timeout=BOUND, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    wait_for(lambda: not os.path.exists(f"/proc/{int(done.stdout)}"))
