"""Processor limits in the scheduler's units, which both versions share: quota and period in microseconds."""

from __future__ import annotations

from ..errors import SpecError

LEAST = 1000  # µs: the smallest quota and period (kernel/sched/core.c, min_cfs_quota_period)
MOST = 1_000_000  # µs: the longest period
USUAL = 100_000  # µs: the kernel's own


def quota_and_period(cpus: float, period: int | None) -> tuple[int, int]:
    """*cpus* processors as (quota, period) in µs. Without a *period*, the usual one, or a longer one for a tiny share.

    Raises SpecError where the quota would be below what the kernel takes.
    """
    chosen = period or USUAL
    if period is None and cpus * chosen < LEAST:
        chosen = min(MOST, -int(-LEAST // cpus))
    quota = round(cpus * chosen)
    if quota < LEAST:
        least = LEAST / (period or MOST)
        raise SpecError(
            "limits.cpus", cpus, f"at least {least:g} of a processor, since the quota's floor is 1 ms"
        )
    return quota, chosen


def shares(weight: int) -> int:
    """A weight of version 2 (1 to 10000, usual 100) as cpu.shares of version 1 (2 to 262144, usual 1024)."""
    return max(2, round(weight * 1024 / 100))
