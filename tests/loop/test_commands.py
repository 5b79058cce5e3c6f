"""A container as a place: commands one after the other, at once, and what each may have of its own."""

from __future__ import annotations

import contextlib
import gc
import os

import anyio
import anyio.abc
import pytest
from loop.helpers import BOUND, SLEEPER, shell

from creche import Container, CrecheError, Process, Reason, SpawnError, Spec, SpecError
from needs import needs

pytestmark = needs("native", "userns")


async def test_ten_commands_one_after_the_other():
    async with Container(Spec()) as box:
        for number in range(10):
            result = await box.run(shell(f"echo {number}; exit {number}"))
            assert (result.stdout, result.returncode) == (b"%d\n" % number, number)


@pytest.mark.slow
async def test_fifty_commands_at_once():
    """More than the control socket has room for: those who find it full wait for their turn."""
    done = set()
    async with Container(Spec()) as box, anyio.create_task_group() as tasks:

        async def one(number):
            result = await box.run(["echo", str(number)])
            assert result.stdout == b"%d\n" % number
            done.add(number)

        for number in range(50):
            tasks.start_soon(one, number)
    assert len(done) == 50


async def test_they_share_the_place():
    async with Container(Spec()) as box:
        assert (await box.run(shell("echo x > /tmp/file; hostname"))).ok
        assert (await box.run(["cat", "/tmp/file"])).stdout == b"x\n"


async def test_a_process_is_anyios():
    async with Container(Spec()) as box, box.open(["cat"]) as process:
        assert isinstance(process, Process) and isinstance(process, anyio.abc.Process)
        assert isinstance(process.stdin, anyio.abc.ByteSendStream)
        assert isinstance(process.stdout, anyio.abc.ByteReceiveStream)
        assert process.returncode is None and process.exit is None
        await process.stdin.send(b"x")
        await process.stdin.aclose()
        assert await process.stdout.receive() == b"x"
        assert await process.wait() == 0 and process.returncode == 0
        assert process.exit.reason is Reason.EXITED
        await process.aclose()
        await process.aclose()


async def test_beside_a_main_command():
    async with Container(Spec(shell("read x; exit 3"))) as box:
        assert (await box.run(["echo", "x"])).stdout == b"x\n"
        await box.stdin.aclose()
        assert (await box).code == 3
        with pytest.raises(CrecheError):
            await box.run(["true"])


async def test_the_main_commands_end_is_the_end_of_the_others():
    async with Container(Spec(shell("read x"))) as box, box.open(SLEEPER) as process:
        await box.stdin.aclose()
        await box
        assert await process.wait() == -9
        assert process.exit.reason is Reason.LOST


async def test_env_adds_to_what_the_container_has():
    show = ["env"]
    async with Container(Spec()) as box:
        plain = set((await box.run(show)).stdout.split(b"\n"))
        assert set((await box.run(show, env={"A": "1"})).stdout.split(b"\n")) == plain | {b"A=1"}
        assert set((await box.run(show, env={})).stdout.split(b"\n")) == plain
        changed = set((await box.run(show, env={"HOME": "/x"})).stdout.split(b"\n"))
        assert changed == {b"HOME=/x" if line.startswith(b"HOME=") else line for line in plain}
    async with Container(Spec(env={"A": "1", "B": "2", "PATH": "/usr/bin"})) as box:
        result = await box.run(show, env={"B": "3", "C": "4"})
        assert sorted(result.stdout.split()) == [b"A=1", b"B=3", b"C=4", b"PATH=/usr/bin"]
    async with Container(Spec(env={})) as box:
        assert (await box.run(["/usr/bin/env"], env={"A": "1"})).stdout == b"A=1\n"


async def test_env_comes_after_what_is_inherited(monkeypatch):
    monkeypatch.setenv("CRECHE_TEST", "callers")
    async with Container(Spec(inherit_env=["CRECHE_TEST"])) as box:
        assert b"CRECHE_TEST=callers\n" in (await box.run(["env"])).stdout
        assert b"CRECHE_TEST=added\n" in (await box.run(["env"], env={"CRECHE_TEST": "added"})).stdout
        other = await box.run(["env"], inherit_env=["HOME"])
        assert b"HOME=%s\n" % os.environb[b"HOME"] in other.stdout


async def test_home_is_that_of_the_user():
    async with Container(Spec(user="root" if os.geteuid() else "nobody")) as box:
        plain = (await box.run(shell("echo $HOME"))).stdout
        assert (await box.run(shell("echo $HOME"), env={"A": "1"})).stdout == plain


@pytest.mark.parametrize("field", [{"rootfs": None}, {"hostname": "x"}, {"security": None}, {"nonsense": 1}, {"name": "x"}])
async def test_what_is_the_containers_is_no_commands(field):
    async with Container(Spec()) as box:
        with pytest.raises(SpecError) as caught:
            await box.run(["true"], **field)
        assert caught.value.field == next(iter(field))


async def test_a_wrong_field_is_refused_and_the_place_lives_on():
    async with Container(Spec()) as box:
        with pytest.raises(SpecError):
            await box.run(["true"], env={"A=B": "x"})
        with pytest.raises(SpecError):
            await box.run(["true"], umask=0o7777)
        with pytest.raises(SpecError):
            await box.run([])
        with pytest.raises(SpecError):
            await box.run("true")
        assert (await box.run(["true"])).ok


async def test_a_command_that_is_not_there_is_told_and_the_place_lives_on():
    async with Container(Spec()) as box:
        for command in (["/no/such/thing"], ["no-such-thing"], ["/etc/passwd"], ["/tmp"]):
            with pytest.raises(SpawnError) as caught:
                await box.run(command)
            assert caught.value.field == "command" and caught.value.errno in (2, 13)
        with pytest.raises(SpawnError) as caught:
            await box.run(["true"], cwd="/no/such/place")
        assert caught.value.field == "cwd"
        assert (await box.run(["true"])).ok


@pytest.mark.parametrize("seconds", ["0", "0.001", "0.002", "0.05"])
async def test_a_run_is_told_once_or_in_time_however_long_it_takes(seconds):
    """A brief one's start is told with its end; what it wrote, and its status, are the same either way."""
    async with Container(Spec()) as box:
        for n in range(20):
            result = await box.run(shell(f"sleep {seconds}; cat; echo err >&2; exit {n}"), input=b"in")
            assert (result.exit.code, result.stdout, result.stderr) == (n, b"in", b"err\n")
            assert result.exit.usage.memory_peak


async def test_more_input_and_output_than_pipes_hold():
    async with Container(Spec()) as box:
        data = bytes(range(256)) * 4096
        result = await box.run(["cat"], input=data)
        assert result.ok and result.stdout == data


async def test_a_command_that_fails_to_start_after_others_were_kept_back():
    async with Container(Spec()) as box, anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(box.run, ["sleep", "0.01"])
        for _ in range(20):
            with pytest.raises(SpawnError, match="absent"):
                await box.run(["/absent"])


async def test_a_run_that_was_not_told_of_yet_ends_with_its_place():
    """Wherever in its start it is: a Result that says who killed it, or that it was over, or that it never began; never a hang."""
    for number in range(30):
        async with Container(Spec()) as box, anyio.create_task_group() as tasks:

            async def one(box=box):
                with contextlib.suppress(CrecheError):
                    result = await box.run(SLEEPER)
                    assert result.exit.reason is Reason.KILLED

            tasks.start_soon(one)
            for _ in range(number % 6):
                await anyio.lowlevel.checkpoint()
            if number % 2:
                await anyio.sleep(number / 20_000)
            box.kill()


async def test_a_timeout_ends_the_command_and_not_the_place():
    async with Container(Spec()) as box:
        result = await box.run(shell("echo before; sleep 1000"), timeout=1.5)
        assert (result.exit.reason, result.stdout) == (Reason.TIMEOUT, b"before\n")
        for timeout in (0, 0.001, 0.003):
            assert (await box.run(SLEEPER, timeout=timeout)).exit.reason is Reason.TIMEOUT
        result = await box.run(shell("yes"), max_output=1000)
        assert result.exit.reason is Reason.OUTPUT_LIMIT and len(result.stdout) == 1000
        assert (await box.run(["echo", "x"])).stdout == b"x\n"


async def test_nothing_of_a_thousand_commands_is_kept():
    async with Container(Spec()) as box:
        for number in range(100):
            assert (await box.run(["true"])).ok
            if number % 10 == 0:
                with pytest.raises(SpawnError):
                    await box.run(["/no/such/thing"])
            if number % 10 == 1:
                with anyio.move_on_after(0.001):
                    await box.run(["true"])
            if number % 10 == 2:
                with anyio.move_on_after(0), pytest.raises(CrecheError):
                    await box.get("/no/such/file")
        assert set(box._processes) == {1}
        assert not box._answers and not box._asked and not box._subs
        gc.collect()
        kept = [item for item in gc.get_objects() if isinstance(item, Process) and item._box is box]
        assert len(kept) <= 1


async def test_hundreds_of_unread_ends_do_not_block_the_init():
    """More exits than the socket holds, while nobody listens: the init waits, and goes on when somebody does."""
    async with Container(Spec()) as box, contextlib.AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(box.open(["cat"])) for _ in range(120)]
        for process in processes:
            process.stdin.close()
        await anyio.sleep(0.2)
        with anyio.fail_after(BOUND):
            assert (await box.run(["echo", "x"])).stdout == b"x\n"
            for process in processes:
                assert await process.wait() == 0


async def test_open_in_many_tasks():
    async with Container(Spec()) as box, anyio.create_task_group() as tasks:

        async def talk(number):
            async with box.open(["cat"]) as process:
                for round_ in range(5):
                    await process.stdin.send(b"%d %d\n" % (number, round_))
                    assert await process.stdout.receive() == b"%d %d\n" % (number, round_)

        for number in range(20):
            tasks.start_soon(talk, number)


async def test_run_can_be_started_in_a_task_group():
    async with Container(Spec()) as box:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(box.run, SLEEPER)
            tasks.start_soon(box.run, SLEEPER)
            await anyio.sleep(0.05)
            tasks.cancel_scope.cancel()
        assert set(box._processes) == {1}
        assert (await box.run(["true"])).ok


async def test_orphans_are_reaped_by_the_init():
    async with Container(Spec()) as box:
        for _ in range(20):
            assert (await box.run(shell("(sleep 0 &)"))).ok
        for _ in range(100):  # the last of them may just be dying, or not have been executed yet
            result = await box.run(shell("for f in /proc/[0-9]*/stat; do read -r _ _ s _ < $f && echo $s; done"))
            if b"Z" not in result.stdout.split():
                break
        else:
            raise AssertionError(result.stdout)


async def test_without_an_init_there_is_no_second_command():
    async with Container(Spec(SLEEPER, init=False)) as box:
        with pytest.raises(CrecheError, match="init"):
            await box.run(["true"])
        with pytest.raises(CrecheError):
            await box.get("/etc/passwd")
