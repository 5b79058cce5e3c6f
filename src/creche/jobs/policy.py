"""Which jobs to start, and whether to try one again: pure functions of what is queued, what runs and what happened."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from attrs import evolve, frozen

from creche.errors import SpawnError
from creche.jobs.values import Outcome, Retry
from creche.results import Exit, Reason
from creche.supervisor.restarts import Random

SHORTAGE = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EBUSY})
"""What a spawn may fail of that another time it may not."""


@frozen
class Candidate:
    """A job that could be started, as far as choosing goes."""

    id: int
    key: str = ""
    priority: int = 0
    memory: int = 0
    cpus: float = 0.0


@frozen(kw_only=True)
class Room:
    """What there is room for: jobs, bytes and processors; None is no bound."""

    jobs: int
    memory: int | None = None
    cpus: float | None = None

    def fits(self, job: Candidate) -> bool:
        """Whether this one still fits."""
        return (
            self.jobs > 0
            and (self.memory is None or job.memory <= self.memory)
            and (self.cpus is None or job.cpus <= self.cpus + 1e-9)
        )

    def less(self, job: Candidate, sign: int = 1) -> Room:
        """The room that is left with it (or, with `sign=-1`, without it)."""
        return evolve(
            self,
            jobs=self.jobs - sign,
            memory=None if self.memory is None else self.memory - sign * job.memory,
            cpus=None if self.cpus is None else self.cpus - sign * job.cpus,
        )


def choose(
    queued: Mapping[str, Sequence[Candidate]],
    room: Room,
    running: Mapping[str, int],
    per_key: Callable[[str], int | None],
    served: Mapping[str, int],
) -> list[Candidate]:
    """The jobs to start now, in order. Each key's candidates come sorted: highest priority first, then oldest.

    The highest priority goes first; among equals the key with the fewest running, then the one that was
    `served` longest ago (the number of its last turn), then the oldest job. A key at its limit
    holds back nobody but itself. The one whose turn it is and that does not fit holds back all others, or small
    jobs would starve a big one for ever.
    """
    chosen: list[Candidate] = []
    busy = Counter(running)
    heads = {key: 0 for key, jobs in queued.items() if jobs}
    while heads and room.jobs > 0:
        open_keys = [key for key in heads if (limit := per_key(key)) is None or busy[key] < limit]
        if not open_keys:
            break
        job = min(
            (queued[key][heads[key]] for key in open_keys),
            key=lambda job: (-job.priority, busy[job.key], served.get(job.key, 0), job.id),
        )
        if not room.fits(job):
            break
        chosen.append(job)
        room = room.less(job)
        busy[job.key] += 1
        heads[job.key] += 1
        if heads[job.key] >= len(queued[job.key]):
            del heads[job.key]
    return chosen


@frozen
class Tried:
    """What is known of a job when a try has ended: this try included, how many were the program's fault or not."""

    failed: int
    lost: int
    memory: int | None = None
    """Its memory limit, in bytes."""


@frozen
class Finish:
    """It is finished, with this outcome."""

    outcome: Outcome


@frozen
class Again:
    """It is tried again, after `delay` seconds, with this memory limit; `lost`: this try was not its fault."""

    delay: float
    memory: int | None
    lost: bool


def is_lost(exit: Exit | None, error: Exception | None) -> bool:
    """Whether a try ended through no fault of the program's, so that another may go well."""
    if error is not None:
        return isinstance(error, SpawnError) and error.errno in SHORTAGE
    return exit is None or exit.reason is Reason.LOST


def judge(
    exit: Exit | None,
    error: Exception | None,
    tried: Tried,
    retry: Retry,
    most_memory: int | None,
    random: Random,
) -> Finish | Again:
    """What to do after a try that ended with `exit`, or could not be made because of `error`."""
    if error is None and exit is not None and exit.ok:
        return Finish(Outcome.OK)
    if is_lost(exit, error):
        if tried.lost > retry.lost:
            return Finish(Outcome.ERROR if error is not None else Outcome.LOST)
        return Again(retry.backoff.delay(tried.lost, random), tried.memory, True)
    if error is not None or exit is None:
        return Finish(Outcome.ERROR)
    if exit.reason not in retry.reasons or tried.failed >= retry.attempts:
        return Finish(Outcome.FAILED)
    memory = tried.memory
    if exit.reason is Reason.OOM and memory is not None and retry.more_memory > 1.0:
        bounds = [bound for bound in (retry.most_memory, most_memory) if bound is not None]
        grown = min([int(memory * retry.more_memory), *bounds])
        if grown <= memory:
            return Finish(Outcome.FAILED)  # it would die again in the same way
        memory = grown
    # The first retry waits too: unlike a server's, a job's failure is hardly ever a passing one.
    return Again(retry.backoff.delay(tried.failed + 1, random), memory, False)
