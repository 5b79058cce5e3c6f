"""The supervisor dies, by SIGKILL and at any moment: every container dies with it."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from loop.helpers import adopting, alive, below, supervisor, wait_for

from needs import needs

pytestmark = needs("native", "userns")

MANY = """
import sys, anyio
from contextlib import AsyncExitStack
from creche import Container, Spec
DAEMON = "import os,time\\nif os.fork(): time.sleep(0.1); os._exit(0)\\nos.setsid()\\nif os.fork(): os._exit(0)\\nopen('/tmp/up','w')\\ntime.sleep(1000)"
async def main():
    async with AsyncExitStack() as stack:
        for n in range(int(sys.argv[2])):
            box = await stack.enter_async_context(Container(Spec(["sleep", "1000"] if n % 2 else None)))
            if n % 5 == 0:
                await box.run(["python3", "-S", "-c", DAEMON])
        print("up", flush=True)
        await anyio.sleep(1000)
anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_kill_9_ends_every_container_daemons_included(backend):
    with adopting(), supervisor(MANY, backend, "50") as process:
        assert process.stdout.readline() == "up\n"
        inside = below(process.pid)
        assert len(inside) >= 50 + 25 + 10  # an init each, main commands in half of them, daemons in some
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for(lambda: not any(alive(pid) for pid in inside), "the end of all containers")


BEFORE_ITS_PLAN = """
import os, signal, time, anyio
import creche.starting
from creche import Container, Spec
from creche._native import lib
async def main():
    box = Container(Spec(["true"]))
    async with box:
        await box.wait()
    next = Container(Spec(["true"]))
    def compile(*_):
        while not (pid := lib.creche_job_pid(next._job._job)):
            time.sleep(0.01)
        time.sleep(0.1)
        print(pid, flush=True)
        time.sleep(1000)
    creche.starting.compile = compile
    await next.__aenter__()
anyio.run(main)
"""


def test_kill_9_ends_a_child_that_waits_for_its_plan():
    """As an ordinary user's it has not executed yet, and shares the memory of its supervisor."""
    with adopting(), supervisor(BEFORE_ITS_PLAN) as process:
        child = int(process.stdout.readline())
        assert alive(child)
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for(lambda: not alive(child), "its end")


FORKED = """
import os, time, anyio, signal
from creche import Container, Spec
async def main():
    async with Container(Spec(["sleep", "1000"])) as box, Container(Spec()) as place:
        await place.run(["sh", "-c", "sleep 1000 &"])
        if not os.fork():  # as multiprocessing's fork and pre-fork servers do: it holds the control sockets
            print("fork", os.getpid(), flush=True)
            time.sleep(1000)
            os._exit(0)
        await anyio.sleep(1000)
anyio.run(main)
"""


def test_a_fork_of_the_supervisor_keeps_nothing_alive():
    with adopting(), supervisor(FORKED) as process:
        fork = int(process.stdout.readline().split()[1])
        inside = below(process.pid) - {fork}
        assert len(inside) >= 4
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for(lambda: not any(alive(pid) for pid in inside), "the end of all containers")
        assert alive(fork)
        os.kill(fork, signal.SIGKILL)


COLLECTING = """
import gc, os, sys, warnings, anyio
from creche import Container, Spec
warnings.simplefilter("ignore")
async def main():
    async with Container(Spec(["sleep", "1000"])) as box:
        pid = os.fork()
        if not pid:
            box.__del__()  # as the collector would call it
            os._exit(0)
        os.waitpid(pid, 0)
        await anyio.sleep(0.1)
        print("alive" if box.exit is None else "dead", flush=True)
        assert (await box.run(["echo", "x"])).ok
    async def in_a_fork():
        async with Container(Spec(["echo", "from a fork"])) as box:
            assert (await box).ok
            print((await box.stdout.receive()).decode().strip(), flush=True)
    await in_a_fork()
anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_fork_of_the_supervisor_kills_nothing(backend):
    with supervisor(COLLECTING, backend) as process:
        printed = process.stdout.read()
    assert "alive\n" in printed and "dead" not in printed
    assert printed.endswith("from a fork\n")
    assert process.returncode == 0


IN_A_FORK = """
import os, anyio, creche
async def main():
    print((await creche.run(["echo", "x"])).stdout, flush=True)
anyio.run(main)
if not os.fork():
    anyio.run(main)
    os._exit(0)
os.wait()
"""


def test_a_fork_supervises_containers_of_its_own():
    with supervisor(IN_A_FORK) as process:
        assert process.stdout.read() == "b'x\\n'\n" * 2


STARTING = """
import sys, anyio, creche
async def main():
    print("up", flush=True)
    async with anyio.create_task_group() as tasks:
        async def forever():
            while True:
                await creche.run(["sh", "-c", "sleep 1000 & sleep 0.01"])
        async def at_a_place():
            async with creche.Container(creche.Spec(init=True)) as box:
                while True:
                    await box.run(["sh", "-c", "sleep 1000 &"])
        for _ in range(3):
            tasks.start_soon(forever)
        tasks.start_soon(at_a_place)
anyio.run(main, backend=sys.argv[1])
"""


def killed_while_starting(rounds, seed):
    dice = random.Random(seed)
    for number in range(rounds):
        with adopting(), supervisor(STARTING, ("asyncio", "trio")[number % 2]) as process:
            process.stdout.readline()
            time.sleep(dice.random() * dice.choice([0.01, 0.05, 0.2]))
            process.send_signal(signal.SIGKILL)
            process.wait()


@pytest.mark.slow
def test_kill_9_at_any_moment_of_a_start():
    """J7, wherever in a start that is; the leak fixture looks for what is left."""
    killed_while_starting(10, 1)


@pytest.mark.long
def test_kill_9_at_any_moment_of_very_many_starts():
    killed_while_starting(300, 2)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGSEGV])
def test_other_deaths_of_the_supervisor(how):
    with adopting(), supervisor(MANY, "asyncio", "4") as process:
        assert process.stdout.readline() == "up\n"
        inside = below(process.pid)
        process.send_signal(how)
        process.wait()
        wait_for(lambda: not any(alive(pid) for pid in inside), "the end of all containers")


THREAD = """
import threading, time, anyio
from creche import Container, Spec
def other():
    async def main():
        async with Container(Spec(["sleep", "1000"])) as box:
            print("up", flush=True)
            await anyio.sleep(1000)
    anyio.run(main)
threading.Thread(target=other, daemon=True).start()
time.sleep(1000)
"""


def test_a_loop_in_another_thread_dies_with_the_process_too():
    with adopting(), supervisor(THREAD) as process:
        assert process.stdout.readline() == "up\n"
        inside = below(process.pid)
        assert len(inside) == 2
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for(lambda: not any(alive(pid) for pid in inside), "the end of all containers")
