"""`creche events` and `logs -f`, as people and programs read them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from creche.cli import workers

EVENT = {"at": 0.0, "child": "web.1", "text": "ChildReady after=0.5\x1b[2J", "fields": {"kind": "ChildReady", "after": 0.5}}


@pytest.fixture
def answered(monkeypatch):
    """What was asked; the answers are an acknowledgement and an event."""
    asked = []

    def answer(path, **request):
        asked.append((str(path), request))
        return iter([{"ok": True}, EVENT] if request["do"] == "events" else [{"child": "web.1", "line": "hi"}])

    monkeypatch.setattr(workers, "asked", answer)
    return asked


def test_each_event_is_a_line_with_its_time(answered, monkeypatch):
    told = CliRunner().invoke(workers.events, [])
    clock, rest = told.output.split(" ", 1)
    assert len(clock) == 8 and rest == "web.1        ChildReady after=0.5\\x1b[2J\n"
    told = CliRunner().invoke(workers.events, ["--json"])
    assert json.loads(told.output) == EVENT["fields"]


def test_f_follows_and_the_project_has_its_long_name(answered):
    told = CliRunner().invoke(workers.logs, ["-f", "--file", "other.toml", "web"])
    assert told.output == "web.1        | hi\n"
    assert answered == [("other.toml", {"do": "logs", "names": ["web"], "follow": True})]
