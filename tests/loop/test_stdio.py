"""What 0, 1, 2 and the passed descriptors are, and that nothing else is open inside."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from loop.helpers import python, shell, supervisor

import creche
from creche import Container, Security, SpawnError, Spec, SpecError
from needs import needs

pytestmark = needs("native", "userns")

LIST = python("""
import os
def is_open(fd):
    try: return os.fstat(fd)
    except OSError: return None
print([fd for fd in range(1024) if is_open(fd)])""")


@pytest.mark.parametrize("how", [{}, {"init": False}, {"tty": True}, {"stdin": "null", "stdout": "pipe", "stderr": "stdout"}])
async def test_only_three_descriptors_are_open_inside(how):
    strangers = [os.open("/dev/null", os.O_RDONLY) for _ in range(5)]
    for fd in strangers:
        os.set_inheritable(fd, True)
    try:
        result = await creche.run(LIST, **how)
        assert result.stdout.split(b"\r")[0].strip() == b"[0, 1, 2]"
        async with Container(Spec()) as box:
            result = await box.run(LIST)
            assert result.stdout == b"[0, 1, 2]\n"
    finally:
        for fd in strangers:
            os.close(fd)


async def test_a_place_does_not_hand_out_pipes_of_others():
    sleep = ["sleep", "1000"]
    async with Container(Spec(sleep)) as one, Container(Spec(sleep)) as other, one.open(sleep), other.open(sleep):
        assert (await one.run(LIST)).stdout == (await other.run(LIST)).stdout == b"[0, 1, 2]\n"


async def test_a_place_makes_no_pipes_which_nobody_would_have(monkeypatch):
    made = []
    pipe2 = os.pipe2
    monkeypatch.setattr(os, "pipe2", lambda flags: made.append(flags) or pipe2(flags))
    async with Container(Spec()) as box:
        assert (box.stdin, box.stdout, box.stderr) == (None, None, None)
    assert not made
    async with Container(Spec(["cat"])):
        assert len(made) == 3
    with pytest.raises(SpawnError, match="901 is not open"):
        async with Container(Spec(stdin=901)):
            pass


async def test_a_file_and_a_descriptor(tmp_path: Path):
    (tmp_path / "in").write_bytes(b"from a file")
    with open(tmp_path / "in", "rb") as source, open(tmp_path / "out", "wb") as target:
        async with Container(Spec(shell("cat; echo; echo err >&2"), stdin=source, stdout=target.fileno(), stderr="stdout")) as box:
            assert (box.stdin, box.stdout, box.stderr) == (None, None, None)
            assert (await box).ok
    assert (tmp_path / "out").read_bytes() == b"from a file\nerr\n"


async def test_subprocess_constants_are_taken():
    spec = Spec(shell("cat; echo err >&2"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert (await creche.run(spec)).stdout == b"err\n"


async def test_stderr_goes_where_stdout_goes():
    result = await creche.run(shell("echo a; echo b >&2; echo c"), stderr="stdout")
    assert (result.stdout, result.stderr) == (b"a\nb\nc\n", b"")


async def test_inherit_is_the_callers_own():
    with tempfile.TemporaryFile() as file:
        saved = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            assert (await creche.run(["echo", "inherited"], stdout="inherit")).ok
        finally:
            os.dup2(saved, 1)
            os.close(saved)
        file.seek(0)
        assert file.read() == b"inherited\n"


async def test_a_closed_descriptor_is_told_before_one_of_ours_takes_its_number():
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    for fields in ({"stdin": read}, {"stdout": write}, {"pass_fds": [read]}, {"pass_fds": [read, write]}):
        with pytest.raises(SpawnError) as caught:
            await creche.run(["true"], **fields)
        assert caught.value.errno == 9
        assert caught.value.field.partition("[")[0] == next(iter(fields))


async def test_an_object_without_a_descriptor_is_told():
    class Odd:
        def fileno(self):
            raise OSError(5, "no descriptor here")

    closed = open(os.devnull)  # noqa: SIM115
    closed.close()
    for odd in (Odd(), closed):
        with pytest.raises((SpawnError, SpecError)) as caught:
            await creche.run(["true"], stdout=odd)
        assert caught.value.field == "stdout"


async def test_passed_descriptors_have_the_same_numbers_inside():
    fds = []
    try:
        for number in (3, 7, 42, 200):
            source = os.memfd_create("x")
            os.write(source, b"number %d" % number)
            os.lseek(source, 0, os.SEEK_SET)
            while True:  # the number itself, or the next that is free
                try:
                    os.fstat(number)
                except OSError:
                    break
                number += 1
            os.dup2(source, number, inheritable=False)
            os.close(source)
            fds.append(number)
        read = "import os, sys; print([os.pread(int(n), 99, 0).decode().split()[0] for n in sys.argv[1:]])"
        command = [*python(read), *map(str, fds)]
        assert (await creche.run(command, pass_fds=fds)).stdout == b"['number', 'number', 'number', 'number']\n"
        result = await creche.run(LIST, pass_fds=fds)
        assert result.stdout.decode().strip() == str([0, 1, 2, *sorted(fds)])
        async with Container(Spec()) as box:
            assert (await box.run(command, pass_fds=fds)).stdout == b"['number', 'number', 'number', 'number']\n"
            assert (await box.run(LIST)).stdout == b"[0, 1, 2]\n"
        assert (await creche.run(LIST, pass_fds=fds, init=False)).stdout.decode().strip() == str([0, 1, 2, *sorted(fds)])
    finally:
        for fd in fds:
            os.close(fd)


async def test_many_passed_descriptors():
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]
    try:
        result = await creche.run(LIST, pass_fds=fds)
        assert result.stdout.decode().strip() == str([0, 1, 2, *sorted(fds)])
    finally:
        for fd in fds:
            os.close(fd)


async def test_a_container_user_may_open_its_own_pipes_again():
    for fields in ({}, {"user": 1000} if os.geteuid() == 0 else {}):
        result = await creche.run(shell("echo out > /dev/stdout; echo err > /dev/stderr; cat /dev/stdin"), input=b"in\n", **fields)
        assert (result.stdout, result.stderr) == (b"out\nin\n", b"err\n")


async def test_the_callers_terminal_is_never_shared():
    """Own session: nothing inside has a controlling terminal, so none can push input into ours (TIOCSTI)."""
    result = await creche.run(python("import os\ntry: os.open('/dev/tty', os.O_RDWR)\nexcept OSError as e: print(e.errno)\nprint(os.getsid(0) == os.getpid())"))
    assert result.stdout == b"6\nTrue\n"


def test_standard_descriptors_that_are_closed_here_are_ours_to_take_inside():
    """A daemon without 0, 1, 2: our own descriptors land there, and the command still gets its pipes."""
    program = """
import os, sys, anyio, creche
out = os.dup(1)
for fd in (0, 1, 2): os.close(fd)
async def main():
    result = await creche.run(["sh", "-c", "cat; echo out; echo err >&2"], input=b"in ")
    os.write(out, repr((result.returncode, result.stdout, result.stderr)).encode())
anyio.run(main)
"""
    with supervisor(program) as process:
        assert process.stdout.read() == "(0, b'in out\\n', b'err\\n')"


async def test_dumpable_is_unchanged_after_each_kind_of_spawn():
    before = Path("/proc/self/status").stat().st_uid
    await creche.run(["true"])
    await creche.run(["true"], init=False)
    await creche.run(["true"], security=Security(seccomp=None))
    async with Container(Spec()) as box:
        await box.run(["true"])
    assert Path("/proc/self/status").stat().st_uid == before  # an undumpable process's files belong to root: proc(5)
    import ctypes

    assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 1, sys.platform
