"""A queue whose supervisor is killed with SIGKILL at random moments: no job is lost, none is done that was not run."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import anyio
import pytest

from creche.jobs import JobQueue, Outcome

VICTIM = Path(__file__).with_name("victim.py")
LOOPS = ["asyncio", "uvloop", "trio"]


def kill_rounds(folder: Path, rounds: int, total: int, loop: str) -> int:
    """Start the victim and kill it, `rounds` times, and then let it finish; how many kills came before its end.

    Some come while it opens the file and takes over what its predecessor left, most while jobs come and go.
    """
    early = 0
    for turn in range(rounds + 1):
        command = [sys.executable, str(VICTIM), str(folder), str(total), str(turn), loop]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as victim:
            assert victim.stdout is not None
            assert victim.stdout.readline() == "begin\n"
            if turn < rounds:
                opening = turn % 4 == 0
                assert opening or victim.stdout.readline() == "open\n"
                try:
                    victim.wait(random.random() * (0.02 if opening else 0.12))
                except subprocess.TimeoutExpired:
                    early += 1
                victim.send_signal(signal.SIGKILL)
                victim.wait()
            else:
                assert victim.wait(60) == 0, "the last one, which nobody kills, has to finish everything"
    return early


def complaints(journal: list[list[str]], results: list[tuple[str, Outcome, int, int]]) -> list[str]:
    """What is wrong with these results, given what the victims wrote down before they said so."""
    kept = {name for word, name in journal if word == "kept"}
    ends = Counter(name for word, name in journal if word == "end")
    starts = Counter(name for word, name in journal if word == "start")
    names = [name for name, *_ in results]
    wrong = [f"{name} was kept and is lost" for name in kept - set(names)]
    wrong += [f"{name} is there {times} times" for name, times in Counter(names).items() if times > 1]
    for name, outcome, attempt, lost in results:
        if outcome is not Outcome.OK:
            wrong.append(f"{name} ended {outcome}")
        if not ends[name]:
            wrong.append(f"{name} is marked done and was never run to its end")
        if attempt != lost + 1:
            wrong.append(f"{name} says {attempt} attempts, of which {lost} were lost")
        if starts[name] > attempt:
            wrong.append(f"{name} was started {starts[name]} times and admits {attempt}")
    return wrong


async def look(folder: Path, total: int) -> int:
    """That nothing is wrong with what the file says in the end; how many tries were lost and made again."""
    journal = [line.split() for line in (folder / "journal").read_text().splitlines()]
    async with JobQueue(folder / "jobs.db", workers=1) as queue:
        results = [result async for result in queue.results(since=0)]
        for result in results:
            assert result.stdout == result.tag.encode() * 50, "large output outlives its supervisor too"
    told = [(result.tag, result.outcome, result.attempt, result.lost) for result in results]
    assert complaints(journal, told) == []
    assert len(results) == total
    leftover = {path.name for path in (folder / "jobs.db.out").iterdir()}
    assert leftover == {path.name for result in results for path in result.files}, (
        "no file of a lost try stays"
    )
    assert list((folder / "jobs.db.owners").iterdir()) == []
    return sum(lost for *_, lost in told)


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_no_job_is_lost_when_the_supervisor_is_killed(tmp_path, loop):
    early = kill_rounds(tmp_path, 8, 150, loop)
    lost = anyio.run(look, tmp_path, 150)
    assert early > 0, "no kill came in time to prove anything"
    print(f"{early} kills came in time, {lost} tries were lost and made again")


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("loop", LOOPS)
def test_no_job_is_lost_in_200_kills(tmp_path, loop):
    early = kill_rounds(tmp_path, 200, 4000, loop)
    lost = anyio.run(look, tmp_path, 4000)
    assert early > 100 and lost > 0
    print(f"{loop}: {early} kills came in time, {lost} tries were lost and made again")


def test_the_check_can_fail():
    """The control: each kind of loss is found where it is."""
    ok = Outcome.OK
    journal = [["kept", "a"], ["start", "a"], ["start", "a"], ["end", "a"], ["kept", "b"]]
    assert complaints(journal, [("a", ok, 2, 1)]) == ["b was kept and is lost"]
    assert "b is marked done and was never run to its end" in complaints(
        journal, [("a", ok, 2, 1), ("b", ok, 1, 0)]
    )
    assert "a was started 2 times and admits 1" in complaints(journal, [("a", ok, 1, 0), ("b", ok, 1, 0)])
    assert "a is there 2 times" in complaints(journal, [("a", ok, 2, 1)] * 2)
