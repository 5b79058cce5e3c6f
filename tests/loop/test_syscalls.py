"""Calls that wait for the loop: every answer, every end, and what happens where nobody answers."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import signal
import threading
from typing import Any

import anyio
import pytest

import creche
from creche import (
    ChildSpec,
    Container,
    CrecheError,
    JobQueue,
    Reason,
    SeccompRules,
    Security,
    SpawnError,
    Spec,
    SpecError,
    Syscall,
    SyscallError,
)
from creche.process import is_dead
from needs import needs

pytestmark = needs("userns", "native")

#: mkdirat as such, by a thread where asked, which tells its errno (0: none); `path` may also be an address.
GUEST = """
import ctypes, os, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def mkdirat(path, mode=0o755):
    return ctypes.get_errno() if libc.syscall(ctypes.c_long({mkdirat}), ctypes.c_long(-100), ctypes.c_long(path) if isinstance(path, int) else path, mode) < 0 else 0
def tell(*what):
    print(*what, flush=True)
""".replace("{mkdirat}", "258" if os.uname().machine == "x86_64" else "34")


def guest(code: str, *names: str, **fields: Any) -> Spec:
    rules = SeccompRules(notify=names or ["mkdirat"])
    return Spec(["python3", "-I", "-S", "-c", GUEST + code], security=Security(seccomp=rules), **fields)


async def first(box: Container, **options: Any) -> Syscall:
    async for call in box.syscalls(**options):
        return call
    raise AssertionError("the container has ended")


async def line(box: Container) -> str:
    assert box.stdout is not None
    async for text in box.stdout.lines():
        return bytes(text).decode()
    assert box.stderr is not None
    raise AssertionError((await box.stderr.receive()).decode())


async def test_each_answer_reaches_its_caller() -> None:
    code = """
tell(mkdirat(b"/tmp/denied"), mkdirat(b"/tmp/completed"), os.path.exists("/tmp/completed"))
fd = libc.syscall(ctypes.c_long(NUMBER), -100, b"/tmp/given", 0o755)
tell(os.read(fd, 100), os.get_inheritable(fd))
tell(mkdirat(b"/tmp/real"), os.path.exists("/tmp/real"))
""".replace("NUMBER", "258" if os.uname().machine == "x86_64" else "34")
    async with Container(guest(code)) as box:
        call = await first(box)
        assert (call.name, await call.path(), call.args[2], call.arch) == ("mkdirat", "/tmp/denied", 0o755, os.uname().machine)
        assert call.pid == box.pid == call.process.pid and call.address and not call.answered
        assert call.deny(errno.EDQUOT) and call.answered
        call = await first(box)
        assert await call.text(1) == b"/tmp/completed" and call.complete()
        assert await line(box) == f"{errno.EDQUOT} 0 False"
        call = await first(box)
        ours, theirs = os.pipe()
        os.write(theirs, b"news")
        assert await call.inject(ours)
        os.close(ours)
        os.close(theirs)
        assert await line(box) == "b'news' True"
        call = await first(box, observe=True)
        assert call.proceed()
        assert await line(box) == "0 True"
        assert (await box).ok


async def test_an_injected_descriptor_may_be_close_on_exec_and_stays_the_supervisors_too() -> None:
    code = "fd = libc.syscall(ctypes.c_long(NUMBER), -100, b'/x', 0); tell(os.get_inheritable(fd))"
    with open(os.devnull) as file:
        async with Container(guest(code.replace("NUMBER", "258" if os.uname().machine == "x86_64" else "34"))) as box:
            assert await (await first(box)).inject(file, cloexec=True)
            assert await line(box) == "False"
        assert file.read() == ""


async def test_where_the_callers_table_is_full_it_hears_of_that() -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
tell(mkdirat(b"/tmp/x"))
"""
    async with Container(guest(code)) as box:
        assert not await (await first(box)).inject(1)
        assert await line(box) == str(errno.EMFILE)


async def test_calls_of_all_commands_come_by_one_iterator_and_tell_whose_they_are() -> None:
    async with Container(Spec(security=Security(seccomp=SeccompRules(notify=["mkdirat"])))) as box:
        argv = ["python3", "-I", "-S", "-c", GUEST + "tell(mkdirat(sys.argv[1].encode()))"]
        async with box.open([*argv, "/tmp/a"]) as a, box.open([*argv, "/tmp/b"]) as b:
            seen = {}
            async for call in box.syscalls():
                seen[await call.path()] = call.process
                assert call.deny(errno.ENOSPC)
                if len(seen) == 2:
                    break
            assert seen == {"/tmp/a": a, "/tmp/b": b}
            assert await a.wait() == await b.wait() == 0


async def test_a_descendants_calls_come_too_when_its_command_is_gone() -> None:
    code = """
if os.fork():
    os._exit(0)
time.sleep(0.05)
mkdirat(b"/tmp/late")
"""
    async with Container(Spec(security=Security(seccomp=SeccompRules(notify=["mkdirat"])))) as box:
        async with box.open(["python3", "-I", "-S", "-c", GUEST + code]) as process:
            assert await process.wait() == 0
            call = await first(box)
            assert await call.path() == "/tmp/late" and call.process is process and call.pid != process.pid
            assert call.deny()


async def test_where_nobody_reads_the_caller_waits_and_the_block_can_be_left() -> None:
    async with Container(guest("tell('begun'); tell(mkdirat(b'/tmp/x'))")) as box:
        assert await line(box) == "begun"
        with anyio.move_on_after(0.05) as over:
            await line(box)
        assert over.cancelled_caught
        assert (await first(box)).deny()
        assert await line(box) == str(errno.EPERM)
    async with Container(guest("tell('begun'); mkdirat(b'/tmp/x')")) as box:
        assert await line(box) == "begun"
    assert box.exit is not None and box.exit.reason is Reason.KILLED


async def test_the_iterator_ends_with_the_container() -> None:
    async with Container(guest("mkdirat(b'/tmp/x'); sys.exit(7)")) as box:
        iterator = box.syscalls()
        async for call in iterator:
            assert call.deny()
        assert box.exit is not None and box.exit.code == 7
        assert [call async for call in iterator] == []
    assert [call async for call in box.syscalls()] == []


async def test_the_iterator_ends_also_where_another_task_hears_of_the_end_first() -> None:
    """Whoever waits for the container reads its last words and closes its socket, which the iterator waits on too."""
    ended = anyio.Event()

    async def read(box: Container) -> None:
        async for _ in box.syscalls():
            pass
        ended.set()

    with anyio.fail_after(60):
        async with Container(guest("time.sleep(1000)")) as box, anyio.create_task_group() as tasks:
            tasks.start_soon(read, box)
            assert box.init_pid and box.pid and box.pidfd >= 0
            while box._calls is None or not box._calls._listeners:
                await anyio.sleep(0.01)
            os.kill(box.init_pid, signal.SIGSTOP)  # it says nothing yet of the death of the only caller
            os.kill(box.pid, signal.SIGKILL)
            while box._calls._listeners:
                await anyio.sleep(0.01)
            await anyio.sleep(0.05)  # the reader waits for the init's word now
            os.kill(box.init_pid, signal.SIGKILL)
            while not box._bury():
                is_dead(box._pidfd, 60)
            await ended.wait()


async def test_what_cannot_be_meant_is_an_error() -> None:
    box = Container(guest("mkdirat(b'/tmp/x')"))
    with pytest.raises(CrecheError, match="makes no calls"):
        await first(box)
    async with box:
        call = await first(box)
        with pytest.raises(CrecheError, match="observe=True"):
            call.proceed()
        for value in (0, -1, 512, True, "EPERM", 4096):
            with pytest.raises(SpecError):
                call.deny(value)  # type: ignore[arg-type]
        for value in (-1, 1 << 63, True, None):
            with pytest.raises(SpecError):
                call.complete(value)  # type: ignore[arg-type]
        for fd in (-1, 1 << 40, 9999):
            with pytest.raises(SpecError):
                await call.inject(fd)
        assert not call.answered and "answered" not in repr(call)
        assert call.deny() and "answered" in repr(call)
        for again in (call.deny, call.complete):
            with pytest.raises(CrecheError, match="already"):
                again()
        with pytest.raises(CrecheError, match="already"):
            await call.inject(0)
    async with Container(Spec(["sleep", "100"])) as box:
        with pytest.raises(CrecheError, match="hands no calls over"):
            box.syscalls()
        with pytest.raises(CrecheError, match="does not report"):
            box.violations()


async def test_two_tasks_do_not_read_at_once() -> None:
    async with Container(guest("time.sleep(100)")) as box, anyio.create_task_group() as tasks:
        tasks.start_soon(first, box)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(CrecheError, match="one at a time"):
            await first(box)
        tasks.cancel_scope.cancel()


async def test_a_call_that_is_dropped_gets_enosys_and_the_program_is_told() -> None:
    async with Container(guest("tell(mkdirat(b'/tmp/x'))")) as box:
        call: Syscall | None = await first(box)
        with pytest.warns(ResourceWarning, match=r"Syscall mkdirat .* dropped"):
            del call
            gc.collect()
        assert await line(box) == str(errno.ENOSYS)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_handler_that_raises_leaves_no_caller_hanging() -> None:
    async def serve(box: Container) -> None:
        async for call in box.syscalls():
            raise ZeroDivisionError(call.name)

    async with Container(guest("tell(mkdirat(b'/tmp/x'))")) as box:
        with pytest.raises(ZeroDivisionError):
            await serve(box)
        gc.collect()
        assert await line(box) == str(errno.ENOSYS)


async def test_a_cancelled_reader_takes_no_call_along() -> None:
    async with Container(guest("[tell(mkdirat(b'/tmp/x')) for _ in range(20)]")) as box:
        heard = 0
        while heard < 20:
            with anyio.move_on_after(0):
                async for call in box.syscalls():
                    assert call.deny(errno.EXDEV)
            call = await first(box)
            assert call.deny(errno.EXDEV)
            assert await line(box) == str(errno.EXDEV)
            heard += 1


async def test_a_caller_that_is_killed_while_its_call_waits() -> None:
    """An answer to it tells so, a look raises; and the loop goes on."""
    code = """
for n in range(2):
    child = os.fork()
    if not child:
        mkdirat(b"/tmp/x")
        os._exit(0)
    tell(child)
    os.kill(child, int(sys.stdin.readline()))
    tell(os.waitpid(child, 0)[1])
tell(mkdirat(b"/tmp/last"))
"""
    async with Container(guest(code)) as box:
        assert box.stdin is not None
        for _ in range(2):
            await line(box)
            call = await first(box)
            await box.stdin.send(b"9\n")
            assert await line(box) == "9"
            with pytest.raises(SyscallError) as caught:
                await call.path()
            assert caught.value.errno == errno.ENOENT and caught.value.call == "mkdirat" and "caller is gone" in str(caught.value)
            assert call.deny() is False
        call = await first(box)
        assert await call.path() == "/tmp/last" and call.deny()
        assert await line(box) == str(errno.EPERM)


async def test_a_caller_that_is_killed_before_its_call_is_taken() -> None:
    code = """
child = os.fork()
if not child:
    mkdirat(b"/tmp/x")
    os._exit(0)
while open(f"/proc/{child}/stat").read().rpartition(")")[2].split()[0] != "S":  # until it waits for an answer
    time.sleep(0.001)
os.kill(child, 9)
os.waitpid(child, 0)
tell("killed")
tell(mkdirat(b"/tmp/y"))
"""
    async with Container(guest(code)) as box:
        assert await line(box) == "killed"
        call = await first(box)
        assert await call.path() == "/tmp/y" and call.deny()


async def test_hostile_arguments_are_told_apart() -> None:
    code = """
import mmap
page = mmap.mmap(-1, 8192)
page[:] = b"x" * 8192
where = ctypes.addressof(ctypes.c_char.from_buffer(page))
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
for address in (0, 1, -1, 1 << 62, -4096, where):
    tell(mkdirat(address))
page[4090:4096] = b"/tmp/z"
page[4096] = 0
tell(mkdirat(where + 4090))
libc.munmap(where + 4096, 4096)
tell(mkdirat(where + 4090))
"""
    expected = [errno.EFAULT] * 5 + [errno.ENAMETOOLONG, None, errno.EFAULT]
    async with Container(guest(code)) as box:
        for wanted in expected:
            call = await first(box)
            if wanted is None:
                assert await call.path() == "/tmp/z" and await call.read(call.args[1], 3) == b"/tm"
                call.deny(errno.ENOSPC)
                assert await line(box) == str(errno.ENOSPC)
                continue
            with pytest.raises(SyscallError) as caught:
                await call.path()
            assert caught.value.errno == wanted
            call.deny(caught.value.errno)
            assert await line(box) == str(wanted)
        assert (await box).ok


async def test_a_call_without_a_path_has_none() -> None:
    async with Container(guest("tell(os.getppid())", "getppid")) as box:
        call = await first(box)
        assert call.name == "getppid" and await call.path() is None
        for address, size in ((0, -1), (-1, 1), (1 << 64, 1), (0, 1 << 30)):
            with pytest.raises(SpecError):
                await call.read(address, size)
        assert call.complete(41)
        assert await line(box) == "41"


@pytest.mark.parametrize("names", [("execve",), ("seccomp", "sendmsg", "sendmmsg", "close", "execve"), ()], ids=["execve", "all it takes", "everything"])
async def test_what_a_newborn_needs_itself_may_be_notified(names: tuple[str, ...]) -> None:
    """The container starts without anybody who answers; from the guest's first call on they are the user's."""
    notify: Any = {"defaultAction": "SCMP_ACT_NOTIFY"} if not names else SeccompRules(notify=names)
    seen = []
    async with Container(Spec(["sh", "-c", "exec /usr/bin/true"], security=Security(seccomp=notify))) as box:
        async for call in box.syscalls(observe=True):
            seen.append(call.name)
            call.proceed()
        assert box.exit is not None and box.exit.ok
    assert seen.count("execve") == 1 and (names or len(set(seen)) > 5)


async def test_an_exec_that_fails_is_told_though_it_is_notified() -> None:
    for command, number in (("/absent", errno.ENOENT), ("/etc/passwd", errno.EACCES), ("no-such-program", errno.ENOENT)):
        with pytest.raises(SpawnError) as caught:
            async with Container(Spec([command], security=Security(seccomp=SeccompRules(notify=["execve"])))):
                pass
        assert caught.value.errno == number


async def test_no_more_than_a_window_of_calls_is_in_the_users_hands() -> None:
    code = """
sys.setswitchinterval(1e-4)
threads = [threading.Thread(target=mkdirat, args=(b"/tmp/x",)) for _ in range(200)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
tell("done")
"""
    async with Container(guest(code)) as box:
        held: list[Syscall] = []
        with anyio.move_on_after(60) as scope:
            async for call in box.syscalls():
                held.append(call)
                if len(held) == 128:
                    scope.deadline = anyio.current_time() + 0.2  # and no more come
        assert len(held) == 128
        for call in held:
            assert call.deny()
        held.clear()
        async with anyio.create_task_group() as tasks:

            async def rest() -> None:
                async for call in box.syscalls():
                    call.deny()

            tasks.start_soon(rest)
            assert await line(box) == "done"


async def test_where_nobody_could_answer_such_a_spec_is_refused() -> None:
    spec = guest("")
    profile = Security(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]})
    for security in (spec.security, profile):
        with pytest.raises(SpecError, match="nobody could answer"):
            await creche.run(["true"], security=security)
    with pytest.raises(SpecError, match="nobody could answer"):
        await Container(spec)
    with pytest.raises(SpecError, match="nobody could answer"):
        ChildSpec("a", spec)
    async with JobQueue() as jobs:
        with pytest.raises(SpecError, match="nobody could answer"):
            await jobs.submit(spec)
    with pytest.raises(SpecError, match="init"):
        Spec(["true"], init=False, security=spec.security)


async def test_a_signal_does_not_make_a_taken_call_come_twice() -> None:
    """SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, from 5.19."""
    code = """
import signal
signal.signal(signal.SIGUSR1, lambda *_: tell("signal"))
tell(mkdirat(b"/tmp/x"))
"""
    async with Container(guest(code)) as box:
        call = await first(box)
        box.send_signal(signal.SIGUSR1)
        await anyio.sleep(0.05)
        assert await call.path() == "/tmp/x" and call.deny(errno.EXDEV)
        assert {await line(box), await line(box)} == {"signal", str(errno.EXDEV)}
        assert [call async for call in box.syscalls()] == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # from 3.12 on, beside threads
async def test_a_fork_of_the_host_program_answers_nothing_in_our_place() -> None:
    """It has copies of the calls in our hands, which it drops when it ends; and of a lock, held for ever by a thread that it has not."""
    async with Container(guest("tell(mkdirat(b'/tmp/x'))")) as box:
        call = await first(box)
        held, free = threading.Event(), threading.Event()

        def hold() -> None:
            with call._listener._lock:
                held.set()
                free.wait(20)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        child = os.fork()
        if not child:
            signal.alarm(10)
            told = 2  # whatever is raised
            with contextlib.suppress(BaseException):
                told = int(call.deny())
                call._answered = False
                call.__del__()
                call._listener.close()
            os._exit(told)
        free.set()
        thread.join()
        assert os.waitpid(child, 0)[1] == 0
        assert call.deny(errno.EXDEV)
        assert await line(box) == str(errno.EXDEV)
