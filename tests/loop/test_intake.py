"""What a run() writes is taken by whoever waits for its end: many at once, cancelled in turn, beside forks, threads, floods and closed descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from types import SimpleNamespace

import anyio
import pytest
import uvloop
from loop.helpers import BOUND, others, shell, supervisor, until
from loop.test_exhausted import message, pair
from loop.test_forks import driven, in_a_fork

import creche
from creche import Container, CrecheError, Reason, SpawnError, Spec
from creche import intake as module
from creche.channel import Channel
from creche.communicate import Collector
from creche.intake import Intake
from creche.streams import CHUNK, ReceiveStream
from creche.wire import control
from needs import needs

pytestmark = needs("native", "userns")

MUCH = 300_000  # bytes: a pipe holds fewer, so who writes them waits for a reader
VAIN = 0.3  # seconds after which a control has waited in vain
WRITES = shell(f"head -c {MUCH} /dev/zero; sleep 0.05; head -c {MUCH} /dev/zero; echo x >&2; exit 3")
HOLDS = shell(f"echo up; read x; head -c {MUCH} /dev/zero")


def descriptors():
    """The pipes and epolls of this process; what the library keeps for all containers comes when it will."""
    links = {}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            links[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return {(fd, link) for fd, link in links.items() if link.startswith("pipe:") or "eventpoll" in link}


def whole(result):
    return (result.returncode, len(result.stdout), result.stderr) == (3, 2 * MUCH, b"x\n")




# ---- a command that lives longer than its start ----


async def test_it_makes_no_task_and_keeps_no_descriptor():
    async with Container(Spec()) as box:
        before = descriptors(), len(anyio.get_running_tasks())
        most = 0
        for command in (WRITES, shell("sleep 0.02")):

            async def one(command=command):
                await box.run(command)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one)
                await until(lambda: len(box._processes) == 2 and box._processes[max(box._processes)].intake is not None)
                most = max(most, len(anyio.get_running_tasks()))
        assert most == before[1] + 1  # which is `one`
        assert descriptors() == before[0]


async def test_output_comes_whole_with_and_without_an_init():
    async with Container(Spec()) as box:
        assert whole(await box.run(WRITES))
        assert whole(await box.run(WRITES, timeout=BOUND))
        result = await box.run(shell("cat; exit 3"), input=bytes(MUCH))  # the feeding is a task still
        assert (result.returncode, len(result.stdout)) == (3, MUCH)
        result = await box.run(WRITES, stderr="stdout")
        assert len(result.stdout) == 2 * MUCH + 2 and result.stderr == b""
        assert (await box.run(WRITES, stdout="null", stderr="null")).returncode == 3
    for init in (True, False):
        with anyio.fail_after(BOUND):
            assert whole(await creche.run(WRITES, init=init))
            late = await creche.run(shell(f"head -c {MUCH} /dev/zero; exec sleep 1000"), init=init, timeout=0.3)
            assert late.exit.reason is Reason.TIMEOUT and len(late.stdout) == MUCH
            over = await creche.run(shell("exec cat /dev/zero"), init=init, max_output=MUCH)
            assert over.exit.reason is Reason.OUTPUT_LIMIT and len(over.stdout) == MUCH and over.stdout_truncated


async def test_an_end_of_file_before_the_end():
    """A pipe at its end stays readable: it must leave the epoll, or the loop would spin until the command ends."""
    async with Container(Spec()) as box, others() as turns:
        async with anyio.create_task_group() as tasks:
            results = []

            async def one():
                results.append(await box.run(shell("exec >&- 2>&-; while ! [ -e /tmp/go ]; do sleep 0.01; done; exit 4")))

            tasks.start_soon(one)
            await until(lambda: any(process.intake is not None and not process.intake._takers for process in box._processes.values()))
            intake = next(process.intake for process in box._processes.values() if process.intake is not None)
            assert not intake._epoll.poll(0)
            await box.put("/tmp/go", b"")
        assert results[0].returncode == 4 and turns.taken


# ---- others of the same container ----


@pytest.mark.parametrize("victims", [(), (0,), (1,), (3,), (0, 1), (1, 2), (0, 1, 2)])
async def test_any_of_those_who_wait_may_be_cancelled(victims):
    """One of them reads the socket for all, and where it leaves another must: also where that one is leaving in the same turn."""
    results = {}
    async with Container(Spec()) as box, anyio.create_task_group() as tasks:
        scopes = [anyio.CancelScope() for _ in range(4)]
        before = descriptors()

        async def one(number):
            with scopes[number]:
                results[number] = await box.run(HOLDS, input=None, stdin=ends[number])

        pipes = [os.pipe() for _ in range(4)]
        ends = [read for read, _ in pipes]
        for number in range(4):
            tasks.start_soon(one, number)
        await until(lambda: sum(process.intake is not None for process in box._processes.values()) == 4)
        for victim in victims:
            scopes[victim].cancel()
        await until(lambda: len(box._processes) == 5 - len(victims))
        for number in range(4):
            os.write(pipes[number][1], b"\n")
        with anyio.fail_after(BOUND):
            while len(results) < 4 - len(victims):
                await anyio.sleep(0.005)
        for read, write in pipes:
            os.close(read)
            os.close(write)
    assert set(results) == set(range(4)) - set(victims)
    assert all(result.ok and result.stdout == b"up\n" + bytes(MUCH) for result in results.values())
    assert descriptors() <= before


@pytest.mark.parametrize("told", [True, False], ids=["told", "control"])
async def test_who_waits_for_the_socket_alone_takes_over(monkeypatch, told):
    """The one who reads is cancelled. Where it tells nobody, as in the control, the other waits for ever."""
    async with Container(Spec()) as box, box.open(shell("read x; exit 5"), stdout="null", stderr="null") as process, anyio.create_task_group() as tasks:
        reader = anyio.CancelScope()
        ends = []

        async def one():
            with reader:
                await box.run(shell("echo up; exec sleep 1000"))

        async def other():
            ends.append(await process.wait())

        tasks.start_soon(one)
        await until(lambda: box._channel._reading and any(process.intake is not None for process in box._processes.values()))
        tasks.start_soon(other)
        await anyio.wait_all_tasks_blocked()
        with monkeypatch.context() as patch:
            if not told:
                patch.setattr(Channel, "_stir", lambda self, awaited: None)
            reader.cancel()
            await until(lambda: set(box._processes) == {1, process._ident})
            await process.stdin.send(b"\n")
            with anyio.move_on_after(BOUND if told else VAIN) as vain:
                while not ends:
                    await anyio.sleep(0.01)
        assert vain.cancelled_caught != told
        box._channel.wake()
    assert ends == [5]


async def test_those_who_wait_for_other_things_wait_beside_them():
    """For the container, for a command that open() gave, for a file: whoever of them reads."""
    for first in range(3):
        ends = []
        async with Container(Spec(shell("read x; exit 7"))) as box, box.open(shell("read x; exit 5")) as process:

            async def waits(box=box, ends=ends):
                ends.append((await box.wait()).code)

            async def opened(process=process, ends=ends):
                ends.append(await process.wait())

            async def runs(box=box, process=process, ends=ends):
                ends.append(whole(await box.run(WRITES)))
                assert await box.get("/etc/passwd")
                await process.stdin.send(b"\n")
                await until(lambda: 5 in ends)
                await box.stdin.send(b"\n")

            order = [waits, opened, runs]
            with anyio.fail_after(BOUND):
                async with anyio.create_task_group() as tasks:
                    for each in order[first:] + order[:first]:
                        tasks.start_soon(each)
        assert set(ends) == {True, 5, 7}


async def test_what_another_task_reads_is_heard():
    """`exit` looks at the socket by itself, at any time: whoever waits for what it finds there must hear of it."""
    async with Container(Spec()) as box, anyio.create_task_group() as tasks:

        async def look():
            while True:
                assert box.exit is None
                await anyio.lowlevel.checkpoint()

        tasks.start_soon(look)
        with anyio.fail_after(BOUND):
            for _ in range(10):
                assert whole(await box.run(WRITES))
        tasks.cancel_scope.cancel()


async def test_news_wake_those_whose_news_they_are():
    ours, theirs = pair()
    known, woken = set(), []
    channel = Channel(ours, lambda reply, fds, pid: known.add(reply.id))

    async def wait(number):
        await channel.until(lambda: number in known)
        woken.append(number)

    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as tasks:
            for number in range(1, 6):
                tasks.start_soon(wait, number)
            await anyio.wait_all_tasks_blocked()
            for number in (3, 1, 5):
                theirs.send(message(control.EXITED, number))
                await until(lambda number=number: number in woken)
            assert woken == [3, 1, 5]
            theirs.close()  # its end is news for all
    assert set(woken) == {1, 2, 3, 4, 5}
    channel.close()


async def test_the_block_is_left_while_it_runs():
    for end in ("kill", "leave"):
        ends = []
        async with anyio.create_task_group() as tasks:
            async with Container(Spec()) as box:

                async def one(number, box=box, ends=ends):
                    try:
                        ends.append((await box.run(shell(f"head -c {MUCH} /dev/zero; exec sleep 1000"))).exit.reason)
                    except CrecheError:
                        ends.append(None)

                for number in range(3):
                    tasks.start_soon(one, number)
                await until(lambda box=box: sum(process.intake is not None for process in box._processes.values()) == 3)
                if end == "kill":
                    box.kill()
                    with anyio.fail_after(BOUND):
                        await box
        assert len(ends) == 3 and set(ends) <= {Reason.KILLED, None}


# ---- cancelled ----


async def test_cancelled_again_and_again_it_leaves_nothing():
    async with Container(Spec()) as box:
        await box.run(WRITES)
        before = descriptors()
        for seconds in (0, 0.001, 0.005, 0.01, 0.02, 0.04, 0.06):
            with anyio.move_on_after(seconds):
                await box.run(WRITES)
            assert set(box._processes) == {1} and not box._channel._waiting and not box._channel._reading
        assert descriptors() == before and whole(await box.run(WRITES))


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("victim", range(3))
def test_task_cancel_of_any_of_them(run, victim):
    async def main():
        async with Container(Spec()) as box:
            tasks = [asyncio.ensure_future(box.run(WRITES)) for _ in range(3)]
            await until(lambda: sum(process.intake is not None for process in box._processes.values()) == 3)
            tasks[victim].cancel()
            done, _ = await asyncio.wait(tasks, timeout=BOUND)
            assert len(done) == 3
            assert [task.cancelled() for task in tasks] == [number == victim for number in range(3)]
            assert all(whole(task.result()) for task in tasks if not task.cancelled())
            assert set(box._processes) == {1}

    run(main())


async def test_one_that_is_too_late_and_one_that_writes_too_much_end_alone():
    async with Container(Spec()) as box:
        results = {}

        async def one(name, command, **options):
            results[name] = await box.run(command, **options)

        with anyio.fail_after(BOUND):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: one("late", shell("echo x; exec sleep 1000"), timeout=0.2))
                tasks.start_soon(lambda: one("much", shell("exec cat /dev/zero"), max_output=MUCH))
                tasks.start_soon(lambda: one("well", WRITES))
                tasks.start_soon(lambda: one("part", WRITES, max_output=1000, on_overflow="discard"))
        assert results["late"].exit.reason is Reason.TIMEOUT and results["late"].stdout == b"x\n"
        assert results["much"].exit.reason is Reason.OUTPUT_LIMIT and len(results["much"].stdout) == MUCH
        assert whole(results["well"])
        assert results["part"].returncode == 3 and results["part"].stdout_truncated and len(results["part"].stdout) == 1000


# ---- who holds the pipe, and who fills it ----


@pytest.mark.parametrize("left", ["sleep 1000", "(trap '' PIPE; while :; do echo y; done 2>/dev/null)"])
async def test_a_daemon_that_holds_the_pipe_keeps_nobody(left):
    async with Container(Spec()) as box:
        with anyio.fail_after(BOUND):
            result = await box.run(shell(f"{left} & echo $! >&2; sleep 0.02; exit 3"), on_overflow="discard")
        assert result.returncode == 3
        assert (await box.run(["kill", "-0", result.stderr.decode().strip()])).ok, "the control: it lives on"


async def test_a_fast_writer_leaves_the_loop_to_others():
    size = 30 << 20
    async with Container(Spec()) as box, others() as turns:
        before = turns.taken
        result = await box.run(shell(f"head -c {size} /dev/zero; sleep 0.01"), max_output=None)
        assert len(result.stdout) == size and turns.taken - before >= size >> 21


async def test_one_that_is_never_empty_leaves_it_to_them_too():
    """The worst of writers fills the pipe as fast as it is read: each share is followed by a turn."""
    read, write = os.pipe()
    os.write(write, b"x")
    left = iter(range(100))
    intake = Intake([(read, lambda: CHUNK if next(left, None) is not None else intake.rouse() or 0)])
    async with others() as turns:
        before = turns.taken
        await intake.wait()
        assert next(left, None) is None and turns.taken - before >= 90  # trio throws dice for who is first
    intake.close()
    os.close(write)
    stream = ReceiveStream(read)
    assert Collector(stream, None, None).receive() == -1  # its end, past what was there
    stream.close()
    assert Collector(stream, None, None).receive() == -1  # and once it is closed


def test_a_share_is_bounded():
    given = []

    class Endless:
        def fileno(self):
            return 0

        def receive_nowait(self, size):
            given.append(size)
            return bytes(size)

    assert Collector(Endless(), None, None).receive() == sum(given) <= 1 << 20


# ---- descriptors ----


async def test_where_there_is_no_descriptor_for_it_that_is_said(monkeypatch):
    async with Container(Spec()) as box:
        before = descriptors()

        def refused():
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        with monkeypatch.context() as patch:
            patch.setattr(module, "select", SimpleNamespace(epoll=refused))
            for start in (lambda: box.run(["sleep", "1000"]), lambda: creche.run(["sleep", "1000"]), lambda: creche.run(["sleep", "1000"], init=False)):
                with anyio.fail_after(BOUND), pytest.raises(SpawnError) as caught:
                    await start()
                assert caught.value.errno == errno.EMFILE and "descriptor" in str(caught.value)
            assert set(box._processes) == {1} and descriptors() == before
            assert (await box.run(["sleep", "0.05"], stdout="null", stderr="null")).ok  # it needs none
        assert whole(await box.run(WRITES))


async def test_a_refused_pipe_leaves_no_epoll():
    before = descriptors()
    read, write = os.pipe()
    with pytest.raises(OSError):
        Intake([(read, lambda: 0), (read, lambda: 0)])  # twice: EEXIST
    os.close(read)
    os.close(write)
    assert descriptors() == before


CLOSED = """
import os, sys, anyio, creche
from creche import Container, Spec
for fd in range(3):
    os.close(fd)
loop, path = sys.argv[1:]
async def main():
    async with Container(Spec()) as box:
        result = await box.run(["sh", "-c", "head -c 300000 /dev/zero; sleep 0.05; exit 3"])
        one = await creche.run(["sh", "-c", "head -c 300000 /dev/zero; sleep 0.05; exit 3"])
    text = repr((result.returncode, len(result.stdout), result.stderr, one.returncode, len(one.stdout)))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(fd, text.encode())
    os.close(fd)
anyio.run(main, backend=loop.partition(" ")[0], backend_options={"use_uvloop": True} if "uvloop" in loop else {})
"""


@pytest.mark.parametrize("loop", ["asyncio", "asyncio uvloop", "trio"])
def test_a_program_without_its_first_three(loop, tmp_path):
    with supervisor(CLOSED, loop, str(tmp_path / "said")) as process:
        process.wait(BOUND)
    assert (tmp_path / "said").read_text() == repr((3, MUCH, b"", 3, MUCH))


# ---- forks and threads ----


@pytest.mark.parametrize("what", ["leaves its block", "waits", "goes on"])
async def test_a_fork_while_it_runs(what):
    """Which shares the epoll and the pipes: nothing is taken from whom they belong to, and nobody there is told that they go."""
    async with Container(Spec()) as box, anyio.create_task_group() as tasks:
        results = []

        async def one():
            results.append(await box.run(WRITES))

        async def opened():
            async with box.open(shell("head -c 10 /dev/zero; sleep 0.1; echo")) as process:
                assert b"".join([part async for part in process.stdout]) == bytes(10) + b"\n"
                results.append(await process.wait())

        for _ in range(2):
            tasks.start_soon(one)
        tasks.start_soon(opened)
        await until(lambda: sum(process.intake is not None for process in box._processes.values()) == 2)
        living = None
        if what == "leaves its block":
            assert in_a_fork(lambda: driven(box.__aexit__())) == ""
        elif what == "waits":
            assert "is a fork of that: use it there" in in_a_fork(lambda: box.wait().send(None))
        else:
            read, living = os.pipe()
            if not os.fork():
                os.close(living)
                os.read(read, 1)  # until its parent is done
                os._exit(0)
            os.close(read)
        with anyio.fail_after(BOUND):
            while len(results) < 3:
                await anyio.sleep(0.005)
        if living is not None:
            os.close(living)
            os.wait()
        assert 0 in results and all(whole(result) for result in results if result)


async def test_the_control_of_a_fork_that_tells(anyio_backend_name):
    """Trio's loop runs on in a fork, where it takes what it is told of out of the epoll that its parent waits for."""
    if anyio_backend_name != "trio":
        return  # asyncio's knows its process
    async with Container(Spec()) as box, anyio.create_task_group() as tasks:
        results = []
        read, write = os.pipe()

        async def one():
            results.append(await box.run(HOLDS, stdin=read))

        tasks.start_soon(one)
        await until(lambda: any(process.intake is not None for process in box._processes.values()))
        await anyio.wait_all_tasks_blocked()

        def tell():
            box._channel._pid = os.getpid()
            box._channel.wake()

        assert in_a_fork(tell) == ""
        os.write(write, b"\n")
        with anyio.move_on_after(VAIN) as vain:
            while not results:
                await anyio.sleep(0.01)
        assert vain.cancelled_caught
        box._channel.wake()
        with anyio.fail_after(BOUND):
            await until(lambda: bool(results))
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("kinds", [("asyncio", "asyncio"), ("asyncio", "trio"), ("trio", "trio")])
def test_threads_with_loops_of_their_own(kinds):
    ends = []

    async def work():
        async with Container(Spec()) as box:
            for _ in range(3):
                async with anyio.create_task_group() as tasks:
                    for _ in range(3):

                        async def one():
                            ends.append(whole(await box.run(WRITES)))

                        tasks.start_soon(one)

    threads = [threading.Thread(target=anyio.run, args=(work,), kwargs={"backend": kind}) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert ends == [True] * 18
