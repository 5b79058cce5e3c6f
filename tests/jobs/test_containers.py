"""The queue with real containers: results, time-outs, memory that grows after an OOM, and no process left behind."""

from __future__ import annotations

import os

import anyio
import pytest

from creche.jobs import JobQueue, Outcome, Retry
from creche.results import Reason
from creche.spec import Limits
from creche.supervisor import Backoff
from needs import needs

pytestmark = needs("userns")

SLEEPER = ["sleep", f"1234.{os.getpid()}"]  # no other run's, which may go on beside this one


@pytest.fixture(params=["memory", "file"])
def path(request, tmp_path):
    return tmp_path / "jobs.db" if request.param == "file" else None


async def test_jobs_run_in_containers_of_their_own(path):
    async with JobQueue(path, workers=2) as queue:
        with anyio.fail_after(30):
            a = await queue.submit(["cat"], input=b"given")
            b = await queue.submit(["sh", "-c", "echo no >&2; exit 3"])
            c = await queue.submit(["sleep", "60"], timeout=0.1)
            d = await queue.submit(["/no/such/program"])
            results = {result.id: result async for result in queue.results()}
    assert results[a.id].stdout == b"given" and results[a.id].exit.usage.wall > 0
    assert (results[b.id].exit.code, results[b.id].stderr) == (3, b"no\n")
    assert results[c.id].outcome is Outcome.FAILED and results[c.id].exit.reason is Reason.TIMEOUT
    assert results[d.id].outcome is Outcome.ERROR and "/no/such/program" in results[d.id].error


async def test_a_cancelled_job_and_a_queue_that_is_left_end_their_processes(path, tmp_path):
    async with JobQueue(path, workers=2) as queue:
        jobs = [await queue.submit(SLEEPER) for _ in range(2)]
        with anyio.fail_after(30):
            while (await queue.progress()).running < 2 or len(sleepers()) < 2:
                await anyio.sleep(0.01)
            assert await jobs[0].cancel()
            assert (await jobs[0].result()).outcome is Outcome.CANCELLED
        assert len(sleepers()) == 1
    assert sleepers() == []


def sleepers():
    """The processes that the test above started, as long as they live."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read()
        except OSError:
            continue
        if line == "".join(f"{word}\0" for word in SLEEPER).encode():
            found.append(pid)
    return found


@needs("limits")
async def test_after_an_oom_the_next_try_has_more_memory(path):
    hungry = ["python3", "-c", "x = bytearray(80 << 20); x[::4096] = b'1' * len(x[::4096]); print('enough')"]
    retry = Retry(attempts=4, backoff=Backoff(first=0), more_memory=2.0)
    async with JobQueue(path, workers=1, memory="512M") as queue:
        with anyio.fail_after(60):
            job = await queue.submit(hungry, limits=Limits(memory="48M", swap=0), retry=retry)
            result = await job.result()
    assert result.ok and result.stdout == b"enough\n" and result.attempt >= 2
