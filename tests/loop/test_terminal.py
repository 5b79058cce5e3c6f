"""A terminal of the container's own: size, resize, control, Ctrl-C, end of file, hang-up."""

from __future__ import annotations

import os
import signal

import anyio
import pytest
from loop.helpers import BOUND, SLEEPER, python, shell

import creche
from creche import Container, CrecheError, Reason, Spec, SpecError
from needs import needs

pytestmark = needs("native", "userns")


async def read_to(stream, end: bytes) -> bytes:
    got = b""
    with anyio.fail_after(BOUND):
        while end not in got:
            got += await stream.receive()
    return got


async def test_all_three_are_one_terminal_of_the_containers():
    result = await creche.run(shell("tty; for n in 0 1 2; do test -t $n && echo yes; done; readlink /proc/self/fd/0"), tty=True)
    assert result.stdout == b"/dev/pts/0\r\nyes\r\nyes\r\nyes\r\n/dev/pts/0\r\n"
    assert result.stderr == b""


@pytest.mark.parametrize(("tty", "size"), [(True, b"24 80\r\n"), ((10, 33), b"10 33\r\n")])
async def test_size(tty, size):
    assert (await creche.run(["stty", "size"], tty=tty)).stdout == size


async def test_resize():
    async with Container(Spec(shell("trap 'stty size' WINCH; echo ready; while :; do sleep 0.01; done"), tty=True)) as box:
        await read_to(box.stdout, b"ready\r\n")
        box.resize(50, 132)
        assert await read_to(box.stdout, b"\n") == b"50 132\r\n"
        for rows, columns in ((0, 1), (1, 70000), (-1, 5), ("1", 1), (1.5, 2), (True, 2)):
            with pytest.raises(SpecError):
                box.resize(rows, columns)
    with pytest.raises(CrecheError, match="closed"):
        box.resize(1, 1)
    async with Container(Spec(SLEEPER)) as box:
        with pytest.raises(CrecheError, match="tty=True"):
            box.resize(1, 1)


async def test_it_controls_its_session():
    text = "import os; os.write(os.open('/dev/tty', os.O_RDWR), b'x'); print(os.getsid(0) == os.getpid(), os.tcgetpgrp(0) == os.getpgrp())"
    assert (await creche.run(python(text), tty=True)).stdout == b"xTrue True\r\n"


async def test_ctrl_c_interrupts():
    # No shell: dash loses a signal that comes between its fork and its child's exec.
    patient = "import signal, time; signal.signal(2, signal.SIG_DFL); print('ready', flush=True); time.sleep(1000)"
    async with Container(Spec(["python3", "-c", patient], tty=True)) as box:
        await read_to(box.stdout, b"ready\r\n")
        await box.stdin.send(b"\x03")
        with anyio.fail_after(BOUND):
            exit = await box
        assert (exit.reason, exit.signal) == (Reason.SIGNALED, signal.SIGINT)


async def test_what_is_typed_is_read_and_echoed():
    async with Container(Spec(shell("read x; echo got $x"), tty=True)) as box:
        await box.stdin.send(b"abc\n")
        assert await read_to(box.stdout, b"got abc\r\n") == b"abc\r\ngot abc\r\n"
        assert (await box).ok


@pytest.mark.parametrize("data", [None, b"", b"line\n", b"no newline"])
async def test_input_ends(data):
    with anyio.fail_after(BOUND):
        result = await creche.run(shell("stty -echo; cat"), tty=True, input=data)
    assert result.ok and (data or b"").strip() in result.stdout


async def test_the_last_output_is_whole():
    for _ in range(20):
        result = await creche.run(shell("seq 1000; echo the end"), tty=True)
        assert result.ok and result.stdout.endswith(b"1000\r\nthe end\r\n")


async def test_of_a_command_too():
    async with Container(Spec()) as box:
        result = await box.run(shell("tty; stty size; seq 1000; echo the end"), tty=(5, 6))
        assert result.stdout.startswith(b"/dev/pts/0\r\n5 6\r\n") and result.stdout.endswith(b"the end\r\n")
        async with box.open(["cat"], tty=True) as one, box.open(["tty"], tty=True) as two:
            assert await read_to(two.stdout, b"\n") == b"/dev/pts/1\r\n"
            await one.stdin.send(b"x\n")
            assert await read_to(one.stdout, b"x\r\nx\r\n") == b"x\r\nx\r\n"


async def test_the_end_of_the_command_is_the_end_of_the_stream():
    async with Container(Spec(["echo", "x"], tty=True)) as box:
        assert b"".join([part async for part in box.stdout]) == b"x\r\n"


async def test_leaving_the_block_hangs_up():
    async with Container(Spec(SLEEPER, tty=True)) as box:
        pass
    assert box.exit.reason is Reason.KILLED


async def test_as_another_user():
    user = 1000 if os.geteuid() == 0 else 0
    text = shell("tty; echo x > /dev/tty; echo y > $(tty)")
    assert (await creche.run(text, tty=True, user=user)).stdout == b"/dev/pts/0\r\nx\r\ny\r\n"
