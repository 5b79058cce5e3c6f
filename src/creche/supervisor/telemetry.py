"""A supervisor's events for OpenTelemetry: counters, a gauge of states, and a span for each life of a child."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import anyio
from attrs import define, field
from opentelemetry import metrics, trace

from creche.supervisor.events import (
    ChildEnded,
    ChildKilled,
    ChildReady,
    ChildRecycled,
    ChildSpawned,
    ChildUnhealthy,
    ChildWaiting,
    Event,
    EventsLost,
    Reader,
    described,
)
from creche.supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation

_COUNTED = {
    ChildReady: ("creche.child.ready", "Times a child became ready."),
    ChildUnhealthy: ("creche.child.unhealthy", "Times the liveness of a child failed."),
    ChildKilled: ("creche.child.killed", "Times a child outlived its grace and was killed."),
    ChildRecycled: ("creche.child.recycled", "Times a child was replaced for its age or size."),
    ChildWaiting: ("creche.child.backoff", "Times a child had to wait for its back-off."),
}


@define
class Telemetry:
    """Tells OpenTelemetry of a supervisor while `run` does; needs ``pip install 'creche[otel]'``.

    >>> tasks.start_soon(Telemetry(sup).run)

    Without providers of your own it takes the global ones, which tell nobody until an SDK is set up. A span is one
    life of a child, from its start to its end, with the events in between. The attribute ``creche.child`` of figures
    is the name of a ChildSpec, not of a copy, so that their number is bounded; spans name the copy.
    """

    supervisor: Supervisor
    meter_provider: metrics.MeterProvider | None = field(default=None, kw_only=True)
    tracer_provider: trace.TracerProvider | None = field(default=None, kw_only=True)
    every: float = field(default=5.0, kw_only=True)  #: seconds between two looks at the states
    _reader: Reader = field(init=False)
    _tracer: trace.Tracer = field(init=False)
    _counters: dict[type[Event], metrics.Counter] = field(init=False)
    _ended: metrics.Counter = field(init=False)
    _lost: metrics.Counter = field(init=False)
    _states: Counter[tuple[str, str]] = field(factory=Counter, init=False)
    _spans: dict[str, trace.Span] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._reader = self.supervisor.events()
        self._tracer = trace.get_tracer("creche", tracer_provider=self.tracer_provider)
        meter = metrics.get_meter("creche", meter_provider=self.meter_provider)
        self._counters = {
            kind: meter.create_counter(name, description=words) for kind, (name, words) in _COUNTED.items()
        }
        self._ended = meter.create_counter("creche.child.ended", description="Lives that ended, by reason.")
        self._lost = meter.create_counter("creche.events.lost", description="Events too fast to be counted.")
        meter.create_observable_gauge("creche.children", [self._observe], description="Children by state.")

    async def run(self) -> None:
        """Until the supervisor has ended; what still lives then ends its span there."""
        with self._reader:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._look)
                try:
                    async for event in self._reader:
                        self._tell(event)
                finally:
                    tasks.cancel_scope.cancel()
                    for span in self._spans.values():
                        span.end()
                    self._spans.clear()

    async def _look(self) -> None:
        while True:
            # An SDK asks from a thread of its own: it gets a value that nobody changes any more.
            self._states = Counter((view.spec.name, view.state) for view in self.supervisor.children.values())
            await anyio.sleep(self.every)

    def _observe(self, _options: CallbackOptions) -> Iterable[Observation]:
        for (name, state), number in self._states.items():
            yield metrics.Observation(number, self._about(name) | {"creche.state": state})

    def _about(self, child: str) -> dict[str, Any]:
        return {"creche.supervisor": self.supervisor.name, "creche.child": child.partition(".")[0]}

    def _tell(self, event: Event) -> None:
        child = getattr(event, "child", "")
        at = int(event.at * 1e9)
        if isinstance(event, EventsLost):
            self._lost.add(event.count, {"creche.supervisor": self.supervisor.name})
        elif type(event) in self._counters:
            self._counters[type(event)].add(1, self._about(child))
        if isinstance(event, ChildEnded):
            self._end(event, at)
        elif isinstance(event, ChildSpawned):
            attributes = {**self._about(child), "creche.copy": child, "process.pid": event.pid or 0}
            self._spans[child] = self._tracer.start_span(
                f"creche {child}", start_time=at, attributes=attributes
            )
        elif child in self._spans:
            self._spans[child].add_event(
                type(event).__name__, {"creche.text": described(event)}, timestamp=at
            )

    def _end(self, event: ChildEnded, at: int) -> None:
        record = event.record
        reason = (
            record.exit.reason.value
            if record.exit is not None
            else "error"
            if record.error is not None
            else "ended"
        )
        self._ended.add(1, self._about(event.child) | {"creche.reason": reason})
        span = self._spans.pop(event.child, None)
        if span is None:  # its start failed, so there was no life
            return
        span.set_attribute("creche.reason", reason)
        if not (record.clean or record.asked):
            span.set_status(trace.StatusCode.ERROR, record.explain())
        span.end(at)
