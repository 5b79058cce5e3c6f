"""Events and output as records of `logging`, with their fields as attributes, and as keys where structlog reads them."""

from __future__ import annotations

import io
import json
import logging

import structlog
from supervisor.fakes import World, settle

from creche.supervisor import ChildEnded, ChildReady, Hooks, Output, Reloaded, Supervisor
from creche.supervisor.events import plain


def structured(stream):
    """A handler that writes what structlog makes of records, as docs/supervision.md has it."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    return handler


async def fail(child):
    raise RuntimeError("no")


async def test_structlog_has_the_fields_of_events_and_of_lines_as_keys(caplog):
    world, stream = World(), io.StringIO()
    caplog.set_level(logging.DEBUG, "creche.supervisor")
    caplog.set_level(logging.INFO, "app.web")
    handler = structured(stream)
    loggers = logging.getLogger("creche.supervisor"), logging.getLogger("app.web")
    for logger in loggers:
        logger.addHandler(handler)
    try:
        child = world.child("web", output=Output(log="app.{name}"), hooks=Hooks(exit=fail))
        async with Supervisor([child], intensity=None, name="shop") as sup:
            await sup.wait_ready()
            world.boxes["web"].print(b"GET /\n")
            await settle()
            world.boxes["web"].end(3)
            await settle(50)
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    line = next(entry for entry in told if entry["event"] == "GET /")
    assert (line["level"], line["creche_child"], line["creche_stream"]) == ("info", "web", "stdout")
    by_kind = {}
    for entry in told:
        if "creche_kind" in entry:
            assert entry["creche_supervisor"] == "shop"
            by_kind.setdefault(entry["creche_kind"], entry)
    ended = by_kind["ChildEnded"]
    assert (ended["level"], ended["creche_child"], ended["creche_reason"]) == ("warning", "web", "exited")
    assert (ended["creche_returncode"], ended["creche_life"], ended["creche_clean"]) == (3, 1, False)
    assert by_kind["ChildReady"]["creche_after"] >= 0
    assert by_kind["HookFailed"]["creche_error"] == "RuntimeError: no"


async def test_a_record_has_the_event_itself_too(caplog):
    world = World()
    with caplog.at_level(logging.INFO, "creche.supervisor"):
        async with Supervisor([world.child("a")]) as sup:
            await sup.wait_ready()
    kinds = [type(record.creche_event) for record in caplog.records if hasattr(record, "creche_event")]
    assert kinds == [ChildReady, ChildEnded]


def test_an_event_in_plain_values_is_json():
    event = Reloaded(at=1.0, changed=("web.1", "web.2"), failed="web.2", why="no")
    told = {"kind": "Reloaded", "at": 1.0, "changed": ["web.1", "web.2"], "failed": "web.2", "why": "no"}
    assert json.loads(json.dumps(plain(event))) == told
