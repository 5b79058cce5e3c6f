"""The queue on every loop, in memory and in a file, with a runner that pretends."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3

import anyio
import anyio.lowlevel
import pytest

from creche.errors import CrecheError, FileError, SpawnError, SpecError
from creche.jobs import JobQueue, Outcome, Retry
from creche.results import Exit, Reason, Result, Usage
from creche.spec import Limits, Spec
from creche.supervisor import Backoff

AT_ONCE = Backoff(first=0)


def exit_of(code=None, signal=None, reason=Reason.EXITED):
    return Exit(code, signal, reason, Usage(user=0.5, memory_peak=1000))


class Runner:
    """Runs nothing: `echo x` says x, `exit n` ends with n, `oom n` needs n bytes, `wait name` waits for its turn."""

    def __init__(self):
        self.log, self.now, self.most = [], 0, 0
        self.gates = {}

    def gate(self, name):
        return self.gates.setdefault(name, anyio.Event())

    async def __call__(self, spec, *, input, timeout, max_output):
        self.now += 1
        self.most = max(self.most, self.now)
        word, *rest = spec.command
        self.log.append(" ".join(spec.command))
        try:
            await anyio.lowlevel.checkpoint()
            match word:
                case "exit":
                    return Result(exit_of(int(rest[0])))
                case "oom":
                    enough = spec.limits.memory >= int(rest[0])
                    return Result(exit_of(0) if enough else exit_of(None, 9, Reason.OOM))
                case "lost":
                    return Result(exit_of(None, 9, Reason.LOST))
                case "raise":
                    raise SpawnError("no room", errno=getattr(errno, rest[0]))
                case "cat":
                    return Result(exit_of(0), input)
                case "wait":
                    await self.gate(rest[0]).wait()
            return Result(exit_of(0), " ".join(rest).encode(), b"err")
        finally:
            self.now -= 1


@pytest.fixture
def runner():
    return Runner()


@pytest.fixture(params=["memory", "file"])
def path(request, tmp_path):
    return tmp_path / "jobs.db" if request.param == "file" else None


async def finish(queue):
    with anyio.fail_after(60):
        return [result async for result in queue.results()]


async def test_jobs_run_and_their_results_come_in_the_order_of_finishing(path, runner):
    async with JobQueue(path, workers=2, runner=runner) as queue:
        first = await queue.submit(["wait", "a"], tag={"n": 1})
        await queue.submit(["echo", "b"], tag={"n": 2})
        assert (await queue.submit(["cat"], input=b"\0in")).new
        async for result in queue.results():
            if result.stdout == b"\0in":
                runner.gate("a").set()
            last = result
        assert last.id == first.id and last.tag == {"n": 1}
        assert (last.outcome, last.attempt, last.lost, last.seq) == (Outcome.OK, 1, 0, 3)
        assert last.exit.usage == Usage(user=0.5, memory_peak=1000) and last.stderr == b"err"
        assert (await first.result()).ok


async def test_so_many_at_a_time(path, runner):
    async with JobQueue(path, workers=3, runner=runner) as queue:
        for _ in range(30):
            await queue.submit(["wait", "all"])
        while runner.now < 3:
            await anyio.sleep(0.001)
        runner.gate("all").set()
        assert len(await finish(queue)) == 30
    assert runner.most == 3


async def test_map_gives_results_in_the_order_of_its_commands(path, runner):
    async with JobQueue(path, workers=4, runner=runner) as queue:
        commands = (["echo", str(number)] for number in range(50))
        said = [result.stdout async for result in queue.map(commands, window=7)]
    assert said == [str(number).encode() for number in range(50)]


async def test_many_wait_for_one_job_and_each_for_his_own(path, runner):
    async with JobQueue(path, workers=2, runner=runner) as queue, anyio.create_task_group() as tasks:
        gate = await queue.submit(["wait", "a"])
        jobs = [await queue.submit(["echo", str(n)], after=[gate]) for n in range(20)]
        got = []

        async def wait(job):
            got.append((await job.result()).id)

        for job in (*jobs, *jobs, gate, gate, gate):
            tasks.start_soon(wait, job)
        await anyio.sleep(0.01)
        runner.gate("a").set()
        with anyio.fail_after(60):
            while len(got) < 43:
                await anyio.sleep(0.001)
        assert queue._waiting == {}


async def test_a_failure_is_a_result_and_check_raises(path, runner):
    async with JobQueue(path, workers=1, runner=runner) as queue:
        result = await (await queue.submit(["exit", "3"])).result()
        assert result.outcome is Outcome.FAILED and result.exit.code == 3
        with pytest.raises(CrecheError, match="status 3"):
            result.check()


async def test_what_cannot_be_run_is_an_error_with_its_reason(path, runner):
    async with JobQueue(path, workers=1, runner=runner) as queue:
        result = await (await queue.submit(["raise", "ENOENT"])).result()
        assert result.outcome is Outcome.ERROR and result.exit is None
        with pytest.raises(CrecheError, match="error: SpawnError: no room"):
            result.check()


async def test_retries_are_counted_and_the_last_word_counts(path, runner):
    async with JobQueue(path, workers=1, runner=runner) as queue:
        retry = Retry(attempts=3, backoff=AT_ONCE)
        result = await (await queue.submit(["exit", "1"], retry=retry)).result()
        assert (result.outcome, result.attempt, result.lost) == (Outcome.FAILED, 3, 0)
        result = await (await queue.submit(["lost"], retry=Retry(lost=2, backoff=AT_ONCE))).result()
        assert (result.outcome, result.attempt, result.lost) == (Outcome.LOST, 3, 2)
        result = await (
            await queue.submit(["raise", "EAGAIN"], retry=Retry(lost=1, backoff=AT_ONCE))
        ).result()
        assert (result.outcome, result.attempt) == (Outcome.ERROR, 2)


async def test_an_oom_gets_more_memory(path, runner):
    retry = Retry(attempts=4, backoff=AT_ONCE, more_memory=2.0)
    async with JobQueue(path, workers=1, memory="1G", runner=runner) as queue:
        job = await queue.submit(["oom", str(250 * 2**20)], limits=Limits(memory="64M"), retry=retry)
        result = await job.result()
        assert (result.outcome, result.attempt) == (Outcome.OK, 3)


async def test_a_job_waits_for_those_it_comes_after(path, runner):
    async with JobQueue(path, workers=4, runner=runner) as queue:
        a = await queue.submit(["wait", "a"])
        b = await queue.submit(["echo", "b"], after=[a])
        c = await queue.submit(["echo", "c"], after=[a, b.id])
        runner.gate("a").set()
        await finish(queue)
        assert (await c.result()).ok
    assert runner.log == ["wait a", "echo b", "echo c"]


async def test_what_comes_after_a_failure_is_cancelled_all_the_way(path, runner):
    async with JobQueue(path, workers=1, runner=runner) as queue:
        last = first = await queue.submit(["exit", "1"], after=[await queue.submit(["echo"])])
        for _ in range(1100):  # deeper than Python recurses
            last = await queue.submit(["echo"], after=[last])
        results = await finish(queue)
        late = await queue.submit(["echo", "late"], after=[first])
        result = await late.result()
    assert [r.outcome for r in results] == [Outcome.OK, Outcome.FAILED] + [Outcome.CANCELLED] * 1100
    assert result.outcome is Outcome.CANCELLED and f"job {first.id}" in result.error
    assert runner.log == ["echo", "exit 1"]


async def test_a_queued_job_and_a_running_one_are_cancelled(path, runner):
    async with JobQueue(path, workers=1, runner=runner) as queue:
        running = await queue.submit(["wait", "a"])
        waiting = await queue.submit(["echo"])
        while not runner.log:
            await anyio.sleep(0.001)
        assert await waiting.cancel() and await running.cancel()
        results = await finish(queue)
        assert {r.outcome for r in results} == {Outcome.CANCELLED}
        assert not await running.cancel()
        with pytest.raises(CrecheError, match="no job 99"):
            await queue.cancel(99)
    assert runner.log == ["wait a"] and runner.now == 0


async def test_priorities_and_limits_of_keys_hold(path, runner):
    async with JobQueue(path, workers=3, runner=runner, per_key={"a": 1}) as queue:
        for name in ("a1", "a2"):
            await queue.submit(["wait", name], key="a")
        await queue.submit(["wait", "b"], key="b")
        await queue.submit(["wait", "c"], key="c", priority=1)
        while len(runner.log) < 3:
            await anyio.sleep(0.001)
        assert set(runner.log) == {"wait a1", "wait b", "wait c"}
        for name in ("a1", "a2", "b", "c"):
            runner.gate(name).set()
        await finish(queue)


async def test_one_worker_serves_keys_by_turns(path, runner):
    async with JobQueue(path, workers=1, runner=runner) as queue:
        await queue.submit(["wait", "a"])
        for key, count in (("x", 6), ("y", 2)):
            for _ in range(count):
                await queue.submit(["echo", key], key=key)
        runner.gate("a").set()
        await finish(queue)
    assert [line[-1] for line in runner.log[1:]] == list("xyxyxxxx")


async def test_memory_is_shared_out_and_what_never_fits_is_refused(path, runner):
    async with JobQueue(path, workers=9, memory="100M", runner=runner) as queue:
        for _ in range(10):
            await queue.submit(["echo"], memory="40M")
        with pytest.raises(SpecError, match="never fits"):
            await queue.submit(["echo"], memory="101M")
        with pytest.raises(SpecError, match="is bounded"):
            await queue.submit(["echo"])
        await finish(queue)
    assert runner.most == 2


async def test_an_idempotency_key_runs_once(path, runner):
    async with JobQueue(path, workers=1, runner=runner) as queue:
        first = await queue.submit(["echo"], once="x")
        second = await queue.submit(["echo"], once="x")
        assert (second.id, second.new) == (first.id, False)
        assert len(await finish(queue)) == 1


async def test_nonsense_is_refused_when_it_is_given(path, runner):
    async with JobQueue(path, workers=1, runner=runner) as queue:
        with pytest.raises(SpecError, match="after"):
            await queue.submit(["echo"], after=[77])
        with pytest.raises(SpecError, match="command"):
            await queue.submit(Spec())
        with pytest.raises(SpecError):
            await queue.submit(["echo"], limits=Limits(memory=-1))
        for wrong in ({"timeout": -1}, {"max_output": -1}, {"input": "text"}):
            with pytest.raises(SpecError, match=next(iter(wrong))):
                await queue.submit(["echo"], **wrong)
        assert (await queue.progress()).total == 0
    with pytest.raises(CrecheError, match="inside its block"):
        await queue.submit(["echo"])
    with pytest.raises(CrecheError, match="entered once"):
        async with queue:
            pass


async def test_progress_counts_every_state(path, runner):
    async with JobQueue(path, workers=1, runner=runner) as queue:
        a = await queue.submit(["wait", "a"])
        await queue.submit(["echo"])
        await queue.submit(["echo"], after=[a])
        while not runner.log:
            await anyio.sleep(0.001)
        progress = await queue.progress()
        assert (progress.running, progress.queued, progress.blocked, progress.left) == (1, 1, 1, 3)
        runner.gate("a").set()
        await queue.join()
        progress = await queue.progress()
        assert (progress.finished, progress.left, progress.outcomes) == (3, 0, {Outcome.OK: 3})


async def test_old_results_are_forgotten_where_only_some_are_kept(path, runner):
    async with JobQueue(path, workers=1, keep=2, runner=runner, inline=0) as queue:
        jobs = [await queue.submit(["echo", str(n)]) for n in range(5)]
        await queue.join()
        assert [r.stdout async for r in queue.results()] == [b"3", b"4"]
        with pytest.raises(CrecheError, match="may have been forgotten"):
            await jobs[0].result()
        assert await queue.forget(5) == 2
    if path is not None:
        assert list((path.parent / "jobs.db.out").iterdir()) == []


async def test_an_error_of_the_block_goes_its_way_unwrapped_and_jobs_are_ended(path, runner):
    with pytest.raises(KeyError, match="mine"):
        async with JobQueue(path, workers=1, runner=runner) as queue:
            await queue.submit(["wait", "a"])
            while not runner.log:
                await anyio.sleep(0.001)
            raise KeyError("mine")
    assert runner.now == 0


@pytest.mark.slow
async def test_a_cancellation_at_any_step_loses_no_job(path, runner):
    """The step is counted in submitted jobs and turns of the loop; with a file the next queue does what was left."""
    for turns in range(24):
        if path is not None:
            path = path.with_name(f"{turns}.db")
        kept = set()
        async with anyio.create_task_group() as tasks:

            async def run(path=path, kept=kept):
                async with JobQueue(path, workers=2, runner=runner) as queue:
                    for number in range(3):
                        kept.add((await queue.submit(["echo", str(number)], tag=number)).id)
                    await queue.join()

            tasks.start_soon(run)
            while len(kept) < turns % 4:
                await anyio.lowlevel.checkpoint()
            for _ in range(turns // 4):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        assert runner.now == 0
        if path is None:
            continue
        async with JobQueue(path, workers=2, runner=runner) as queue:
            with anyio.fail_after(10):
                await queue.join()
                results = [result async for result in queue.results(since=0)]
        assert kept <= {result.id for result in results}
        assert all(result.ok and result.lost == 0 for result in results), "it was left, not lost"


# -- with a file ---------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    return tmp_path / "jobs.db"


async def test_what_was_left_is_done_by_the_next_queue_and_results_are_missed_by_nobody(file, runner):
    async with JobQueue(file, workers=1, runner=runner) as queue:
        await queue.submit(["echo", "a"], tag="a")
        await queue.join()
        await queue.submit(["wait", "b"], tag="b")
        await queue.submit(["echo", "c"], tag="c", cpus=0.5)
        while "wait b" not in runner.log:
            await anyio.sleep(0.001)
    runner.gate("b").set()
    async with JobQueue(file, workers=1, runner=runner) as queue:
        with anyio.fail_after(60):
            fresh = [(r.tag, r.attempt, r.lost) async for r in queue.results()]
            everything = [r.tag async for r in queue.results(since=0)]
    assert fresh == [("b", 2, 0), ("c", 1, 0)]
    assert everything == ["a", "b", "c"]


async def test_large_output_lies_beside_the_file(file, runner):
    async with JobQueue(file, workers=1, runner=runner, inline=10) as queue:
        job = await queue.submit(["echo", "x" * 100])
        result = await job.result()
        assert result.stdout == b"x" * 100 and result.stderr == b"err"
        (kept,) = result.files
        assert kept.read_bytes() == b"x" * 100


@pytest.mark.parametrize("synchronous", ["full", "normal"])
async def test_in_full_mode_large_output_is_on_the_disk_before_its_job_is_done(
    file, runner, monkeypatch, synchronous
):
    """What a power cut leaves cannot be tried here: the calls that it depends on are looked at, and their order."""
    synced = []

    def fsync(fd, real=os.fsync):
        with contextlib.closing(sqlite3.connect(file)) as other:
            (done,) = other.execute("SELECT count(*) FROM jobs WHERE state = 3").fetchone()
        synced.append((os.readlink(f"/proc/self/fd/{fd}"), done))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    async with JobQueue(file, workers=1, runner=runner, inline=10, synchronous=synchronous) as queue:
        job = await queue.submit(["echo", "x" * 100])
        result = await job.result()
    (output,) = result.files
    before = [(str(path), 0) for path in (output, output.parent, file.parent)]
    assert synced == (before if synchronous == "full" else [])


async def test_a_job_that_cannot_be_written_down_is_refused_for_a_file(file, runner):
    async with JobQueue(file, workers=1, runner=runner) as queue:
        with pytest.raises(SpecError, match="tag"):
            await queue.submit(["echo"], tag=object())


async def test_a_file_that_is_no_queue_is_refused(file, runner):
    file.write_bytes(b"rubbish" * 1000)
    with pytest.raises(FileError, match="not a database"):
        async with JobQueue(file, runner=runner):
            pass
    other = file.with_name("later.db")
    conn = sqlite3.connect(other)
    conn.executescript(
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL); INSERT INTO meta VALUES ('version', 99)"
    )
    conn.close()
    with pytest.raises(FileError, match="another version"):
        async with JobQueue(other, runner=runner):
            pass


async def test_two_queues_share_a_file_and_no_job_is_run_twice(file, runner):
    async with (
        JobQueue(file, workers=2, runner=runner) as one,
        JobQueue(file, workers=2, runner=runner, lease=10) as two,
    ):
        for number in range(20):
            await one.submit(["echo", str(number)])
        with anyio.fail_after(60):
            await one.join()
            await two.join()
    assert sorted(runner.log) == sorted(f"echo {number}" for number in range(20))


async def test_a_full_disk_is_told_and_what_ended_meanwhile_is_kept(file, runner, monkeypatch):
    from creche.jobs import engine

    monkeypatch.setattr(engine, "REST", 0.05)
    async with JobQueue(file, workers=1, runner=runner) as queue:
        job = await queue.submit(["wait", "a"])
        while not runner.log:
            await anyio.sleep(0.001)
        conn = queue._store._conn
        (pages,) = conn.execute("PRAGMA page_count").fetchone()
        conn.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(FileError) as caught:
            for _ in range(200):
                await queue.submit(["echo", "x" * 5000])
        assert caught.value.errno == errno.ENOSPC
        before = (await queue.progress()).left
        runner.gate("a").set()
        await anyio.sleep(0.2)
        conn.execute("PRAGMA max_page_count = 1000000")
        assert (await job.result()).ok
        await queue.join()
        assert (await queue.progress()).finished == before


async def test_a_disk_that_is_full_for_large_output_alone_loses_nothing(file, runner, monkeypatch, caplog):
    from creche.jobs import engine

    monkeypatch.setattr(engine, "REST", 0.05)
    out = file.with_name("jobs.db.out")
    out.mkdir()
    (out / "1-1.stdout").symlink_to("/dev/full")
    async with JobQueue(file, workers=1, runner=runner, inline=10) as queue:
        job = await queue.submit(["echo", "x" * 100])
        other = await queue.submit(["echo", "y"])
        with anyio.fail_after(60):
            while "No space left" not in caplog.text:
                await anyio.sleep(0.01)
            (out / "1-1.stdout").unlink()
            assert (await job.result()).stdout == b"x" * 100
            assert (await other.result()).attempt == 1
    assert runner.log == ["echo " + "x" * 100, "echo y"]


async def test_an_unreadable_job_does_not_stop_the_others(file, runner):
    async with JobQueue(file, workers=1, runner=runner) as queue:
        gate = await queue.submit(["wait", "a"])
        bad = await queue.submit(["echo"], after=[gate])
        good = await queue.submit(["echo", "good"], after=[gate])
        await queue._store.do(
            lambda conn: conn.execute("UPDATE jobs SET payload = '{}' WHERE id = ?", (bad.id,))
        )
        runner.gate("a").set()
        assert (await bad.result()).outcome is Outcome.ERROR
        assert (await good.result()).ok
