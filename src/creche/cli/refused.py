"""What a filter refused during a run: counted while it happens, told in a few lines at the end; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from creche import Violation

__all__ = ["Refused"]

MOST = 40  # kinds that are told one by one: the guest may invent any number of calls


class Refused:
    """The refused calls of one run, by name and answer."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], tuple[int, str | None]] = {}  # how often; the first path
        self._others = 0
        self._lost = 0

    def add(self, violation: Violation) -> None:
        """One more."""
        self._lost += violation.dropped
        kind = violation.name, violation.answer
        if kind not in self._kinds and len(self._kinds) >= MOST:
            self._others += 1
            return
        times, path = self._kinds.get(kind, (0, violation.path))
        self._kinds[kind] = times + 1, path

    def lines(self) -> list[str]:
        """What to tell, fit for a terminal: paths are the guest's words, and are escaped."""
        from creche.units import escaped

        if not self._kinds:
            return ["the filter refused no system call"]
        told = ["the filter refused:"]
        for (name, answer), (times, path) in self._kinds.items():
            about = f", {times} times" if times > 1 else ""
            where = f", {'first ' if times > 1 else ''}with {escaped(path, 80)}" if path is not None else ""
            told.append(f"  {name}: {answer}{about}{where}")
        if self._others:
            told.append(f"  and {self._others} more, of other kinds")
        if self._lost:
            told.append(f"  and {self._lost} that came too fast to be told")
        return told
