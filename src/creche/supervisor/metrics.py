"""Figures of supervisors and queues for Prometheus, as text of its exposition format: no library, no thread, no server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from attrs import define, field

from creche.supervisor.events import (
    ChildEnded,
    ChildKilled,
    ChildReady,
    ChildRecycled,
    ChildUnhealthy,
    ChildWaiting,
    Event,
    EventsLost,
    Reader,
)
from creche.supervisor.supervisor import Supervisor

_STATES = ("down", "waiting", "admission", "starting", "ready", "stopping", "done", "held")
_COUNTED = {
    ChildReady: ("creche_child_ready_total", "Times a child became ready."),
    ChildUnhealthy: ("creche_child_unhealthy_total", "Times the liveness of a child failed."),
    ChildKilled: ("creche_child_killed_total", "Times a child outlived its grace and was killed."),
    ChildRecycled: ("creche_child_recycled_total", "Times a child was replaced for its age or size."),
    ChildWaiting: ("creche_child_backoff_total", "Times a child had to wait for its back-off."),
}


@define
class Metrics:
    """Counts a supervisor's events while `run` does; `text` is what an HTTP handler of yours answers on /metrics.

    >>> metrics = Metrics(sup)
    >>> tasks.start_soon(metrics.run)
    >>> body = metrics.text()          # Content-Type: text/plain; version=0.0.4

    The labels are the names of ChildSpecs, not of copies: their number is bounded by what you wrote.
    """

    supervisor: Supervisor
    _counts: Counter[tuple[str, str]] = field(factory=Counter, init=False)
    _ends: Counter[tuple[str, str]] = field(factory=Counter, init=False)
    _lost: int = field(default=0, init=False)
    _reader: Reader = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._reader = self.supervisor.events()

    async def run(self) -> None:
        """Until the supervisor has ended."""
        with self._reader:
            async for event in self._reader:
                self._count(event)

    def _count(self, event: Event) -> None:
        if isinstance(event, EventsLost):
            self._lost += event.count
        elif isinstance(event, ChildEnded):
            record = event.record
            exit = record.exit
            reason = (
                exit.reason.value if exit is not None else ("error" if record.error is not None else "ended")
            )
            self._ends[self._name(event.child), reason] += 1
        elif type(event) in _COUNTED:
            self._counts[_COUNTED[type(event)][0], self._name(getattr(event, "child", ""))] += 1

    @staticmethod
    def _name(child: str) -> str:
        return child.partition(".")[0]  # no ChildSpec has a dot in its name

    def text(self) -> str:
        """All figures as they are now."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        states = Counter((view.spec.name, view.state) for view in self.supervisor.children.values())
        names = sorted({name for name, _ in states})
        label = _label(self.supervisor.name)
        yield from _head("creche_children", "gauge", "Children by state.")
        for name in names:
            for state in _STATES:
                yield f'creche_children{{supervisor={label},child={_label(name)},state="{state}"}} {states[name, state]}'
        for metric, words in _COUNTED.values():
            yield from _head(metric, "counter", words)
            for (counted, name), number in sorted(self._counts.items()):
                if counted == metric:
                    yield f"{metric}{{supervisor={label},child={_label(name)}}} {number}"
        yield from _head("creche_child_ended_total", "counter", "Lives of children that ended, by reason.")
        for (name, reason), number in sorted(self._ends.items()):
            labels = f"supervisor={label},child={_label(name)},reason={_label(reason)}"
            yield f"creche_child_ended_total{{{labels}}} {number}"
        yield from _head("creche_events_lost_total", "counter", "Events that came too fast to be counted.")
        yield f"creche_events_lost_total{{supervisor={label}}} {self._lost}"


def _head(metric: str, kind: str, words: str) -> Iterable[str]:
    return f"# HELP {metric} {words}", f"# TYPE {metric} {kind}"


def _label(value: str) -> str:
    text = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'"{text}"'
