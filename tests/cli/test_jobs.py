"""`creche jobs`: a queue's file as a person sees it, read while it is worked on."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

from creche.cli.jobs import command
from creche.jobs import JobQueue
from creche.results import Exit, Reason, Result, Usage


async def fill(path: Path) -> list[str]:
    """A queue with one job of each fate, and what the command says meanwhile."""

    async def runner(spec, *, input, timeout, max_output):
        if spec.command[0] == "wait":
            await anyio.sleep_forever()
        if spec.command[0] == "raise":
            raise ValueError("\x1b[31mno")
        return Result(Exit(int(spec.command[1]), None, Reason.EXITED, Usage()))

    async with JobQueue(path, workers=2, runner=runner) as queue:
        for words in (["exit", "0"], ["exit", "1"], ["raise"]):
            await (await queue.submit(words)).result()
        for _ in range(3):
            await queue.submit(["wait"])
        while (await queue.progress()).running < 2:
            await anyio.sleep(0.001)
        run = partial(CliRunner().invoke, command)
        return [run([str(path), *more]).output for more in ([], ["--json"], ["-n", "1"])]


def test_it_counts_and_shows_the_last(tmp_path: Path) -> None:
    text, data, one = anyio.run(fill, tmp_path / "jobs.db")
    assert text.splitlines()[:2] == ["jobs: 1 queued, 2 running", "outcomes: 1 ok, 1 failed, 1 error"]
    assert "ValueError" in text and "\x1b" not in text
    assert [job["outcome"] for job in json.loads(data)["last"]] == ["ok", "failed", "error"]
    assert len(one.splitlines()) == 3


@pytest.mark.parametrize("content", [b"", b"rubbish" * 200])
def test_a_file_that_is_no_queue_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(content)
    told = CliRunner().invoke(command, [str(path)])
    assert told.exit_code == 1 and "can't be read as a queue" in told.output
