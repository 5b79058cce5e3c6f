"""Choosing and retrying as rules: each test is named by the one it shows."""

from __future__ import annotations

import errno

import pytest

from creche.errors import SpawnError, SpecError
from creche.jobs.policy import Again, Candidate, Finish, Room, Tried, choose, judge
from creche.jobs.values import Outcome, Retry
from creche.results import Exit, Reason, Usage
from creche.supervisor.restarts import Backoff

NO_LIMIT = Room(jobs=100)


def pick(jobs, room=NO_LIMIT, running=None, limit=None, served=None):
    queued = {}
    for job in sorted(jobs, key=lambda job: (-job.priority, job.id)):
        queued.setdefault(job.key, []).append(job)
    return [job.id for job in choose(queued, room, running or {}, lambda key: limit, served or {})]


def exit_of(code=None, signal=None, reason=Reason.EXITED):
    return Exit(code, signal, reason, Usage())


def test_the_oldest_goes_first():
    assert pick([Candidate(2), Candidate(1), Candidate(3)], Room(jobs=2)) == [1, 2]


def test_the_highest_priority_goes_first():
    jobs = [Candidate(1), Candidate(2, priority=5), Candidate(3, "other", priority=7)]
    assert pick(jobs) == [3, 2, 1]


def test_keys_take_turns():
    jobs = [Candidate(n, "a") for n in (1, 2, 3)] + [Candidate(n, "b") for n in (4, 5, 6)]
    assert pick(jobs) == [1, 4, 2, 5, 3, 6]


def test_the_key_with_the_fewest_running_goes_first():
    jobs = [Candidate(1, "a"), Candidate(2, "b"), Candidate(3, "b")]
    assert pick(jobs, running={"a": 2}) == [2, 3, 1]


def test_among_equals_the_key_whose_last_turn_is_longest_ago_goes_first():
    jobs = [Candidate(1, "a"), Candidate(2, "b"), Candidate(3, "c")]
    assert pick(jobs, Room(jobs=1), served={"a": 2, "c": 1}) == [2]
    assert pick(jobs, Room(jobs=1), served={"a": 3, "b": 2, "c": 1}) == [3]


def test_a_key_at_its_limit_holds_back_nobody_else():
    jobs = [Candidate(n, "a") for n in (1, 2, 3)] + [Candidate(4, "b")]
    assert pick(jobs, limit=1) == [1, 4]
    assert pick(jobs, running={"a": 1}, limit=1) == [4]


def test_no_more_than_there_is_memory_and_processors_for():
    jobs = [Candidate(n, memory=40, cpus=0.5) for n in range(1, 6)]
    assert pick(jobs, Room(jobs=9, memory=100)) == [1, 2]
    assert pick(jobs, Room(jobs=9, cpus=1.5)) == [1, 2, 3]


def test_a_big_job_whose_turn_it_is_is_not_starved_by_small_ones():
    jobs = [Candidate(1, memory=90), *(Candidate(n, memory=1) for n in (2, 3))]
    assert pick(jobs, Room(jobs=9, memory=50)) == []


def test_room_comes_back_with_the_job_that_had_it():
    room = Room(jobs=1, memory=10, cpus=2.0)
    job = Candidate(1, memory=10, cpus=1.0)
    assert room.less(job).less(job, -1) == room
    assert not room.less(job).fits(Candidate(2))


def after(exit=None, error=None, failed=1, lost=1, memory=None, most=None, **retry):
    retry.setdefault("backoff", Backoff(first=1, jitter=0))
    return judge(exit, error, Tried(failed, lost, memory), Retry(**retry), most, lambda: 0.0)


def test_what_ended_well_is_finished():
    assert after(exit_of(0)) == Finish(Outcome.OK)


def test_without_attempts_left_a_failure_is_final():
    assert after(exit_of(1)) == Finish(Outcome.FAILED)
    assert after(exit_of(1), failed=3, attempts=3) == Finish(Outcome.FAILED)


def test_attempts_wait_ever_longer():
    delays = [after(exit_of(1), failed=n, attempts=9) for n in (1, 2, 3)]
    assert delays == [Again(pytest.approx(2**n), None, False) for n in (0, 1, 2)]


def test_only_the_given_reasons_are_tried_again():
    killed = exit_of(None, 9, Reason.OUTPUT_LIMIT)
    assert after(killed, attempts=9) == Finish(Outcome.FAILED)
    assert isinstance(after(killed, attempts=9, reasons=["output_limit"]), Again)
    assert after(exit_of(1), attempts=9, reasons=["timeout"]) == Finish(Outcome.FAILED)


def test_after_an_oom_the_next_try_gets_more_memory_within_bounds():
    oom = exit_of(None, 9, Reason.OOM)
    grown = [after(oom, memory=100, attempts=9, more_memory=2.0, most_memory=most) for most in (None, 150)]
    assert [again.memory for again in grown] == [200, 150]
    assert after(oom, memory=100, most=120, attempts=9, more_memory=2.0).memory == 120
    assert after(oom, memory=100, most=100, attempts=9, more_memory=2.0) == Finish(Outcome.FAILED)
    assert after(oom, memory=100, attempts=9).memory == 100


def test_what_is_not_the_programs_fault_costs_it_no_attempt():
    lost = exit_of(None, 9, Reason.LOST)
    shortage = SpawnError("no", errno=errno.EAGAIN)
    for verdict in (after(lost), after(error=shortage)):
        assert verdict == Again(0.0, None, True)
    assert after(lost, lost=6) == Finish(Outcome.LOST)
    assert after(error=shortage, lost=6) == Finish(Outcome.ERROR)
    assert after(lost, lost=1, **{"attempts": 1}).lost


def test_what_can_never_be_run_is_not_tried_again():
    assert after(error=SpecError("x", 1, "y"), attempts=9) == Finish(Outcome.ERROR)
    assert after(error=SpawnError("no", errno=errno.ENOENT), attempts=9) == Finish(Outcome.ERROR)


@pytest.mark.parametrize("fields", [{"attempts": 0}, {"lost": -1}, {"more_memory": 0.5}, {"reasons": ["x"]}])
def test_a_retry_that_makes_no_sense_is_refused(fields):
    with pytest.raises(SpecError, match=f"retry.{next(iter(fields))}"):
        Retry(**fields)
