"""Keeping containers alive: what to start, stop and give up is policy (pure); a loop carries it out."""

from creche.supervisor.admission import Admission
from creche.supervisor.childspec import Box, ChildSpec, Hooks, Output, Recycle
from creche.supervisor.conductor import GaveUp
from creche.supervisor.events import (
    ChildEnded,
    ChildEvent,
    ChildForgotten,
    ChildKilled,
    ChildReady,
    ChildRecycled,
    ChildSpawned,
    ChildStarting,
    ChildStatus,
    ChildStopping,
    ChildUnhealthy,
    ChildWaiting,
    Event,
    EventsLost,
    HookFailed,
    OutputLost,
    Record,
    Reloaded,
    SupervisorGaveUp,
)
from creche.supervisor.output import OutputLine
from creche.supervisor.probes import Ask, Command, Completed, Connect, Delay, Http, Line, Notify
from creche.supervisor.restarts import Backoff, Restart
from creche.supervisor.states import AutoShutdown, Strategy
from creche.supervisor.supervisor import Supervisor
from creche.supervisor.view import Child

__all__ = [
    "Admission",
    "Ask",
    "AutoShutdown",
    "Backoff",
    "Box",
    "Child",
    "ChildEnded",
    "ChildEvent",
    "ChildForgotten",
    "ChildKilled",
    "ChildReady",
    "ChildRecycled",
    "ChildSpawned",
    "ChildSpec",
    "ChildStarting",
    "ChildStatus",
    "ChildStopping",
    "ChildUnhealthy",
    "ChildWaiting",
    "Command",
    "Completed",
    "Connect",
    "Delay",
    "Event",
    "EventsLost",
    "GaveUp",
    "HookFailed",
    "Hooks",
    "Http",
    "Line",
    "Notify",
    "Output",
    "OutputLine",
    "OutputLost",
    "Record",
    "Recycle",
    "Reloaded",
    "Restart",
    "Strategy",
    "Supervisor",
    "SupervisorGaveUp",
]
