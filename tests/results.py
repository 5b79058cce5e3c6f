"""Writes down how each test ended, one JSON line at a time, so that `.ci/run` can merge the runs of several places.

A line is written when a test starts and another when it ends: a test that takes the whole run down with it is known by
its first line. `CRECHE_RESULTS` names the file; `CRECHE_ONLY` names a file of test ids, one a line, to run only those; with
`CRECHE_RESUME` the tests that the file of results knows already are left out: a run goes on where another broke off.
With `--collect-only` one line a test says whether this place lacks what the test needs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from needs import missing


class Results:
    """The plugin that writes the lines."""

    def __init__(self, path: str) -> None:
        # Unbuffered and appended: what was written is there, however the run ends.
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._seen: dict[str, tuple[str, str, float]] = {}
        self._needs: dict[str, list[str]] = {}

    def _write(self, **record: Any) -> None:
        os.write(self._descriptor, json.dumps(record).encode() + b"\n")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            self._needs[item.nodeid] = [name for mark in item.iter_markers("needs") for name in mark.args]
            if item.get_closest_marker("guest"):
                self._needs[item.nodeid].append("guest")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.config.option.collectonly:
            for item in session.items:
                named = [name for mark in item.iter_markers("needs") for name in mark.args]
                lacks = any(missing(name) is not None for name in named)
                self._write(test=item.nodeid, lacks=lacks, needs=self._needs[item.nodeid])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(
                test=report.nodeid, outcome="failed", reason=f"not collected: {report.longreprtext[-500:]}"
            )

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._seen[nodeid] = ("passed", "", 0.0)
        self._write(test=nodeid, outcome="started", reason="the run ended in the middle of it")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome, reason, seconds = self._seen[report.nodeid]
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            outcome, reason = "failed", crash.message if crash else report.longreprtext
        elif report.skipped and outcome == "passed":
            known = getattr(report, "wasxfail", None)
            outcome = "skipped"
            reason = f"known failure: {known}" if known is not None else _skip_reason(report)
        self._seen[report.nodeid] = (outcome, reason, seconds + report.duration)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        outcome, reason, seconds = self._seen.pop(nodeid)
        needs = self._needs.get(nodeid, [])
        self._write(test=nodeid, outcome=outcome, reason=reason, seconds=round(seconds, 3), needs=needs)


def _skip_reason(report: pytest.TestReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def only(path: str, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the tests that the file names."""
    wanted = set(Path(path).read_text().splitlines())
    _select(config, items, [item for item in items if item.nodeid in wanted])


def resume(path: str, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the tests that the file of results says nothing of."""
    known = {json.loads(line).get("test") for line in Path(path).read_text().splitlines()}
    _select(config, items, [item for item in items if item.nodeid not in known])


def _select(config: pytest.Config, items: list[pytest.Item], chosen: list[pytest.Item]) -> None:
    kept = set(chosen)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = chosen
