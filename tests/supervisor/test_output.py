"""What children print: lines of any length, files that are rotated, loggers, and a disk that is full."""

from __future__ import annotations

import errno
import logging
import os
import threading

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as some
from loop.helpers import others
from supervisor.fakes import World, settle

from creche.errors import SpecError
from creche.supervisor import ChildEnded, Output, OutputLost, Supervisor, logfile
from creche.supervisor.logfile import LogFile
from creche.supervisor.output import Splitter


@pytest.fixture
def world():
    return World()


@given(some.lists(some.binary(max_size=30)), some.integers(1, 8))
def test_splitting_loses_nothing_and_no_line_is_too_long(chunks, most):
    split = Splitter(most)
    lines = [line for chunk in chunks for line in split.feed(chunk)] + split.end()
    assert all(len(line) <= most for line in lines)
    assert b"".join(lines) == b"".join(chunks).replace(b"\n", b"")
    whole = Splitter(10**6)
    long = [line for chunk in chunks for line in whole.feed(chunk)] + whole.end()
    expected = b"".join(chunks).split(b"\n")
    assert long == (expected if expected[-1] else expected[:-1])


def test_a_log_file_is_rotated_by_size_and_so_many_are_kept(tmp_path):
    log = LogFile(tmp_path / "log", 10, 2)
    for number in range(7):
        log.write(b"line%d\n" % number)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "log": b"line6\n",
        "log.1": b"line5\n",
        "log.2": b"line4\n",
    }
    bare = LogFile(tmp_path / "bare", 10, 0)
    bare.write(b"12345678\n")
    bare.write(b"9\n0\n")
    assert (tmp_path / "bare").read_bytes() == b"9\n0\n"


def test_a_log_file_does_not_follow_a_link(tmp_path):
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        LogFile(tmp_path / "log", 10, 2).write(b"x")
    assert not (tmp_path / "elsewhere").exists()


async def test_output_goes_to_a_file_of_each_child_and_to_its_logger(world, tmp_path, caplog):
    output = Output(file=tmp_path / "{name}.log", log="app.{name}")
    child = world.child("w", output=output)
    with caplog.at_level(logging.INFO, "app.w"):
        async with Supervisor([child]) as sup:
            await sup.wait_ready()
            world.boxes["w"].print(b"one\n\x1b[31mtwo\xff\nthr")
            world.boxes["w"].print(b"ee")
            await settle()
    assert (tmp_path / "w.log").read_bytes() == b"one\n\x1b[31mtwo\xff\nthree"
    told = [record.getMessage() for record in caplog.records if record.name == "app.w"]
    assert told == ["one", "\\x1b[31mtwo\\xff", "three"], "escapes are shown, not obeyed"


async def test_a_full_disk_loses_output_says_so_and_holds_nobody_up(world, monkeypatch, tmp_path):
    def full(fd, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    child = world.child("w", output=Output(file=tmp_path / "log"))
    async with Supervisor([child]) as sup:
        await sup.wait_ready()
        with sup.events() as reader, monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            world.boxes["w"].print(b"lost\n")
            with anyio.fail_after(5):
                event = await reader.__anext__()
            assert isinstance(event, OutputLost) and event.lost == 5 and "No space left" in event.error
        world.boxes["w"].print(b"kept\n")
        await settle()
    assert (tmp_path / "log").read_bytes() == b"kept\n"
    assert sup["w"].records[-1].lines == (b"lost", b"kept")


@pytest.mark.parametrize("ends", ["written again", "forgotten", "ended"])
async def test_a_disk_that_is_full_for_long_is_told_when_it_begins_and_when_it_is_over(world, tmp_path, ends):
    """Not with each line; all that is told together is all that is missing. /dev/full answers as a full disk does (full(4))."""
    log = tmp_path / "log"
    log.symlink_to("/dev/full")
    printed = b"".join(b"line %d\n" % number for number in range(100))
    opened = os.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", lambda path, flags, mode: opened(path, flags & ~os.O_NOFOLLOW, mode))
        async with Supervisor([world.child("w", output=Output(file=log))]) as sup:
            reader = sup.events()
            await sup.wait_ready()
            for line in printed.splitlines(keepends=True):
                world.boxes["w"].print(line)
                await _written(sup, "w")
            if ends == "forgotten":
                await sup.remove("w")
            elif ends == "written again":
                log.unlink()
                world.boxes["w"].print(b"again\n")
                await _written(sup, "w")
                assert log.read_bytes() == b"again\n"
                log.unlink()
                log.symlink_to("/dev/full")
                world.boxes["w"].print(b"the next trouble\n")
                await _written(sup, "w")
    lost = [event for event in [event async for event in reader] if isinstance(event, OutputLost)]
    assert all(str(log) in event.error and os.strerror(errno.ENOSPC) in event.error for event in lost)
    assert [event.lost for event in lost[:2]] == [len(b"line 0\n"), len(printed) - len(b"line 0\n")]
    assert [event.lost for event in lost[2:]] == ([len(b"the next trouble\n")] if ends == "written again" else [])


async def _written(sup, name):
    """Until what it has printed was read, and has been written, or lost."""
    await settle()
    with anyio.fail_after(20):
        await sup._conductor.slots[name].printed.written()


async def test_what_a_disk_took_before_it_was_full_is_not_told_as_lost(world, monkeypatch, tmp_path):
    write = os.write
    room = [12]

    def almost_full(fd, data):
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= (count := write(fd, data[: room[0]]))
        return count

    async with Supervisor([world.child("w", output=Output(file=tmp_path / "log"))]) as sup:
        await sup.wait_ready()
        with sup.events() as reader, monkeypatch.context() as patch:
            patch.setattr(os, "write", almost_full)
            for _ in range(5):
                world.boxes["w"].print(b"ten bytes\n")
                await _written(sup, "w")
            await sup.remove("w")
            lost = [event.lost async for event in reader_of(reader, 2)]
    assert lost == [8, 30] and (tmp_path / "log").read_bytes() == b"ten bytes\nte"


async def reader_of(reader, count):
    """The next so many events of what was lost."""
    with anyio.fail_after(20):
        while count:
            if isinstance(event := await reader.__anext__(), OutputLost):
                count -= 1
                yield event


async def test_a_disk_that_is_slow_for_long_is_told_when_it_begins_and_when_it_is_over(world, monkeypatch, tmp_path):
    """Though it takes something all the time: during each write comes more than there is room for."""
    turns, began = threading.Semaphore(0), []
    write = LogFile.write

    def slow(self, data):
        began.append(len(data))
        assert turns.acquire(timeout=60)
        write(self, data)

    async def writing(number):
        with anyio.fail_after(20):
            while len(began) < number:
                await anyio.sleep(0.001)

    monkeypatch.setattr(logfile, "PENDING", 10)
    monkeypatch.setattr(LogFile, "write", slow)
    async with Supervisor([world.child("w", output=Output(file=tmp_path / "log"))]) as sup:
        reader = sup.events()
        await sup.wait_ready()
        with sup.output("w") as lines:
            world.boxes["w"].print(b"ten bytes\n")
            await lines.__anext__()
            for number in range(1, 11):
                await writing(number)
                for _ in range(3):  # one waits for the next write, and for two there is no room
                    world.boxes["w"].print(b"ten bytes\n")
                    await lines.__anext__()
                turns.release()
            await writing(11)
            turns.release()
            await _written(sup, "w")
    lost = [event.lost for event in [event async for event in reader] if isinstance(event, OutputLost)]
    assert lost == [10, 190] and began == [10] * 11


async def test_a_disk_that_hangs_holds_up_neither_a_child_nor_its_end(world, monkeypatch, tmp_path):
    """The thread that hangs is left behind; what it did not write is told, some of it at once."""
    hangs = threading.Event()
    monkeypatch.setattr(logfile, "PENDING", 1000)
    monkeypatch.setattr(LogFile, "write", lambda self, data: hangs.wait(60))
    monkeypatch.setattr("creche.supervisor.life.DRAIN_TIMEOUT", 0.05)
    try:
        with anyio.fail_after(20):
            async with Supervisor([world.child("w", output=Output(file=tmp_path / "log"))]) as sup:
                reader = sup.events()
                await sup.wait_ready()
                with sup.output("w") as lines:
                    for number in range(100):
                        world.boxes["w"].print(b"%099d\n" % number)
                        assert (await lines.__anext__()).line == b"%099d" % number
                with sup.events() as told:
                    world.boxes["w"].print(b"x" * 2000)
                    world.boxes["w"].end(1)
                    while not isinstance(event := await told.__anext__(), ChildEnded):
                        pass
                    assert event.record.lines[-1] == b"x" * 2000
                await sup.wait_ready()
            lost = [event async for event in reader if isinstance(event, OutputLost)]
    finally:
        hangs.set()
    assert "too slow" in lost[0].error and "when the supervisor ended" in lost[-1].error
    assert sum(event.lost for event in lost) == 100 * 100 + 2000


async def test_a_fifo_that_nobody_reads_is_a_file_that_cannot_be_written(world, tmp_path):
    os.mkfifo(tmp_path / "log")
    with anyio.fail_after(20):
        async with Supervisor([world.child("w", output=Output(file=tmp_path / "log"))]) as sup:
            await sup.wait_ready()
            with sup.events() as told:
                world.boxes["w"].print(b"lost\n")
                event = await told.__anext__()
                assert isinstance(event, OutputLost) and event.lost == 5
                assert os.strerror(errno.ENXIO) in event.error


async def test_a_flood_of_lines_leaves_others_their_turns(world):
    """Half a million lines can come in one piece; whoever waits for a turn meanwhile gets many."""
    async with Supervisor([world.child("w")]) as sup:
        await sup.wait_ready()
        with sup.output("w", size=1) as lines:
            world.boxes["w"].print(b"\n" * 100_000 + b"last\n")
            async with others() as turns:
                while (await lines.__anext__()).line != b"last":
                    pass
            assert lines.lost > 90_000 and turns.taken > 50


def test_nonsense_is_refused():
    with pytest.raises(SpecError, match=r"output\.keep"):
        Output(keep=-1)
