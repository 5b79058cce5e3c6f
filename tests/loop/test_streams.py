"""Streams: every byte, lines of any length, back-pressure, cancellation that loses nothing."""

from __future__ import annotations

import os
import random
import resource

import anyio
import pytest
from loop.helpers import BOUND, others, python, shell, until

import creche
from creche import Container, Spec
from needs import needs

pytestmark = needs("native", "userns")


async def read_all(stream):
    return b"".join([part async for part in stream])


async def test_every_byte_arrives_as_it_was_sent():
    data = random.Random(1).randbytes(3_000_000)
    async with Container(Spec(["cat"])) as box:
        async with anyio.create_task_group() as tasks:

            async def feed():
                await box.stdin.send(data)
                await box.stdin.aclose()

            tasks.start_soon(feed)
            assert await read_all(box.stdout) == data
        assert (await box).ok


async def through(size):
    """So many bytes in at one end and out at the other at once: their number, and how much more memory that took, in KiB."""
    piece = bytes(range(256)) * 256
    async with Container(Spec(["cat"])) as box:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        came = 0
        async with anyio.create_task_group() as tasks:

            async def feed():
                for _ in range(size // len(piece)):
                    await box.stdin.send(piece)
                await box.stdin.aclose()

            tasks.start_soon(feed)
            async for part in box.stdout:
                came += len(part)
        assert (await box).ok
        return came, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


@pytest.mark.slow
async def test_64_mebibytes_both_ways_at_once_are_not_held_in_memory():
    came, more = await through(64 << 20)
    assert came == 64 << 20 and more < 8 << 10


@pytest.mark.long
async def test_a_gibibyte_both_ways_at_once_is_not_held_in_memory():
    came, more = await through(1 << 30)
    assert came == 1 << 30 and more < 8 << 10


async def test_lines_without_their_newline():
    async with Container(Spec(shell("printf 'a\\n\\nbc\\nlast'"))) as box:
        assert [line async for line in box.stdout.lines()] == [b"a", b"", b"bc", b"last"]


async def test_lines_as_text():
    async with Container(Spec(shell("printf 'h\\303\\251\\n\\377\\n'"))) as box:
        assert [line async for line in box.stdout.lines(encoding="utf-8")] == ["h\u00e9", "\ufffd"]


async def test_a_long_line_comes_in_pieces():
    async with Container(Spec(python("print('x' * 1_000_000); print('y')"))) as box:
        lines = [line async for line in box.stdout.lines()]
    assert max(map(len, lines)) == 65536 and b"".join(lines) == b"x" * 1_000_000 + b"y" and lines[-1] == b"y"


@pytest.mark.parametrize(("text", "lines"), [("abcd\n", [b"abcd"]), ("abcde\n", [b"abcd", b"e"]), ("abcdefgh\n", [b"abcd", b"efgh"])])
async def test_lines_at_the_bound(text, lines):
    async with Container(Spec(["printf", text.replace("\n", "\\n")])) as box:
        assert [line async for line in box.stdout.lines(max=4)] == lines


@pytest.mark.parametrize("max", [4, 5, 6, 7, 65536])
async def test_a_piece_of_text_ends_with_a_whole_character(max):
    text = "h\u00e9\u20ac\U0001f600" * 20_000
    async with Container(Spec(python(f"import sys; sys.stdout.buffer.write(({text[:4]!a} * 20_000).encode() + b'\\nabc\\xe2\\nd')"))) as box:
        lines = [line async for line in box.stdout.lines(encoding="utf-8", max=max)]
    assert "".join(lines) == text + "abc\ufffdd"
    assert all(len(line.encode()) <= max for line in lines if "\ufffd" not in line)


async def test_a_bound_below_one_byte_is_a_value_error():
    async with Container(Spec(["true"])) as box:
        with pytest.raises(ValueError, match="max"):
            await anext(aiter(box.stdout.lines(max=0)))


async def test_leaving_the_lines_early_keeps_the_rest():
    async with Container(Spec(shell("echo a; echo b; echo c"))) as box:
        await box
        async for line in box.stdout.lines():
            assert line == b"a"
            break
        async for line in box.stdout.lines():
            assert line == b"b"
            break
        assert await read_all(box.stdout) == b"c\n"


async def test_a_cancelled_receive_loses_nothing():
    async with Container(Spec(["cat"])) as box:
        for number in range(20):
            with anyio.move_on_after(0.002 * (number % 3)):
                await box.stdout.receive()
                raise AssertionError("nothing was sent yet")
            await box.stdin.send(b"%d\n" % number)
            assert await box.stdout.receive() == b"%d\n" % number


async def test_cancelled_at_random_every_byte_still_arrives():
    dice = random.Random(2)
    data = bytes(range(256)) * 2000
    seen = bytearray()
    async with Container(Spec(python(f"import os,time\nd=bytes(range(256))*2000\nfor i in range(0,len(d),{1 << 13}): os.write(1,d[i:i+{1 << 13}]);time.sleep(.001)"))) as box:
        with anyio.fail_after(BOUND):
            while True:
                with anyio.move_on_after(dice.random() / 1000):
                    try:
                        seen += await box.stdout.receive(777)
                    except anyio.EndOfStream:
                        break
        assert bytes(seen) == data


async def test_streams_may_be_read_after_the_exit():
    async with Container(Spec(shell("echo out; echo err >&2"))) as box:
        assert (await box).ok
        assert await read_all(box.stdout) == b"out\n"
        assert await read_all(box.stderr) == b"err\n"
        with pytest.raises(anyio.EndOfStream):
            await box.stdout.receive()


async def test_after_the_block_they_are_closed():
    async with Container(Spec(["true"])) as box:
        pass
    for stream in (box.stdout, box.stderr):
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()
    with pytest.raises(anyio.ClosedResourceError):
        await box.stdin.send(b"x")


async def test_a_reader_wakes_when_the_block_is_left():
    outcome = []
    async with anyio.create_task_group() as tasks, Container(Spec(["sleep", "1000"])) as box:

        async def read():
            try:
                await box.stdout.receive()
            except (anyio.ClosedResourceError, anyio.EndOfStream) as error:
                outcome.append(type(error))

        tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
    assert len(outcome) == 1


async def test_a_writer_that_is_not_read_waits():
    """Back-pressure: what nobody reads here is not read ahead, so the command stands still at its pipe's end."""
    async with Container(Spec(python("import os\nwhile True: os.write(1, bytes(4096)); os.write(2, b'.')"))) as box:
        written = len(await box.stderr.receive())

        async def settled():
            nonlocal written
            while True:
                with anyio.move_on_after(0.3) as quiet:
                    written += len(await box.stderr.receive())
                if quiet.cancelled_caught:
                    return written

        with anyio.fail_after(BOUND):
            assert await settled() * 4096 <= 1 << 20
            for _ in range(100):  # and it goes on as soon as somebody reads
                await box.stdout.receive()
            assert len(await box.stderr.receive()) > 0


async def test_sending_waits_for_the_reader():
    async with Container(Spec(["sleep", "1000"])) as box:
        with anyio.move_on_after(0.2) as scope:
            await box.stdin.send(bytes(1 << 22))
        assert scope.cancelled_caught


async def test_sending_to_who_has_closed_is_broken():
    async with Container(Spec(shell("exec <&-; sleep 1000"))) as box:
        with pytest.raises(anyio.BrokenResourceError), anyio.fail_after(BOUND):
            while True:
                await box.stdin.send(bytes(65536))


async def test_closing_a_stream_twice_is_well():
    async with Container(Spec(["cat"])) as box:
        await box.stdin.aclose()
        await box.stdin.aclose()
        assert (await box).ok
        await box.stdout.aclose()
        await box.stdout.aclose()


async def test_the_command_gets_sigpipe_where_nobody_reads():
    async with Container(Spec(["yes"])) as box:
        await box.stdout.aclose()
        exit = await box
        assert exit.signal == 13


async def test_a_fast_writer_leaves_the_loop_to_others():
    async with Container(Spec(["yes"])) as box, others() as turns:
        came = 0
        while came < 64 << 20:
            came += len(await box.stdout.receive())
        assert turns.taken >= 10
        turns.taken = 0
        async for _ in box.stdout.lines():
            came -= 1000
            if came <= 0:
                break
        assert turns.taken >= 10


async def test_lines_can_be_cancelled_however_fast_the_writer_is():
    async with Container(Spec(["yes"])) as box:
        with anyio.move_on_after(0.2) as scope:
            async for _ in box.stdout.lines():
                pass
        assert scope.cancelled_caught


async def test_what_a_daemon_writes_on_does_not_keep_a_result_waiting():
    async with Container(Spec()) as box:
        with anyio.fail_after(BOUND):
            result = await box.run(shell("yes & echo started >&2"), on_overflow="discard")
            assert result.ok and result.stderr == b"started\n"
            result = await box.run(shell("sleep 1000 & echo started"))
            assert result.ok and result.stdout == b"started\n"


async def test_two_readers_of_one_stream_are_told():
    async with Container(Spec(["sleep", "1000"])) as box, anyio.create_task_group() as tasks:
        tasks.start_soon(_quietly, box.stdout.receive)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await box.stdout.receive()
        tasks.cancel_scope.cancel()


async def _quietly(receive):
    try:
        await receive()
    except anyio.ClosedResourceError:
        pass


async def test_what_is_no_pipe_is_none():
    async with Container(Spec(["true"], stdin="null", stdout="null", stderr="stdout")) as box:
        assert box.stdin is None and box.stdout is None and box.stderr is None
    result = await creche.run(["echo", "x"], stdout="null")
    assert (result.stdout, result.stderr) == (b"", b"")


async def test_pipes_are_the_size_that_they_were_until_a_reader_falls_behind():
    async with Container(Spec(["yes"])) as box:
        got = b""
        while len(got) < 1 << 20:
            got += await box.stdout.receive()
        assert set(got) == {ord("y"), ord("\n")}
        assert os.get_blocking(box.stdout.fileno()) is False
    await until(lambda: box.stdout.fileno() == -1)


async def test_nonsense_of_lines_is_refused_at_once():
    async with Container(Spec(["true"])) as box:
        for most in (0, -1, "x", None):
            with pytest.raises(ValueError, match="at least 1"):
                box.stdout.lines(max=most)
        with pytest.raises(LookupError):
            box.stdout.lines(encoding="no-such-encoding")
