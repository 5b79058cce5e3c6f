"""One suite for every loop, a look at the world before and after each test, and an end that says what could not run."""

from __future__ import annotations

import contextlib
import inspect
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
import uvloop

import creche
from leaks import nothing_left
from needs import missing
from results import Results, only, resume

__all__ = ["nothing_left"]  # an autouse fixture, for every test of the suite

LOOPS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": False, "debug": True}), id="asyncio-debug"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]

# `.ci/run` has asyncio as root and asyncio's debug mode as an ordinary user: by default each test meets all of them.
if chosen := os.environ.get("CRECHE_LOOPS"):
    LOOPS = [loop for loop in LOOPS if loop.id in chosen.split(",")]

_not_run: defaultdict[str, list[str]] = defaultdict(list)


@pytest.fixture(scope="session", params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The loop an asynchronous test runs on: each of them in turn."""
    return request.param


@pytest.fixture(scope="session", autouse=True)
def _libuv_is_awake() -> None:
    """libuv keeps a pipe for the whole process from its first loop on: made here, so that no test is blamed for it."""
    uvloop.new_event_loop().close()


@pytest.fixture(scope="session", autouse=True)
def _creche_is_awake() -> None:
    """What creche keeps for the whole process from its first start on (the init's program, a pidfd of us) is made here."""
    with contextlib.suppress(creche.CrecheError):  # where nothing can be started, nothing is kept
        anyio.run(creche.run, ["/usr/bin/true"])


@pytest.fixture(scope="session", autouse=True)
def _folder_of_ours() -> Iterator[None]:
    """A temporary folder for this run alone, so that a stranger's files in /tmp are never taken for our leftovers."""
    before = tempfile.tempdir, os.environ.get("TMPDIR")
    folder = tempfile.mkdtemp(prefix="creche-tests-")
    os.chmod(folder, 0o1777)  # as /tmp: a test run by root drops to other users
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    yield
    tempfile.tempdir = before[0]
    if before[1] is None:
        del os.environ["TMPDIR"]
    else:
        os.environ["TMPDIR"] = before[1]
    shutil.rmtree(folder)


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> None:
    """Every asynchronous test runs on each loop, but for those marked trio, which pytest-trio runs once."""
    if not collector.istestfunction(obj, name):
        return
    inner = obj.hypothesis.inner_test if hasattr(obj, "hypothesis") else obj
    marks = [*getattr(obj, "pytestmark", ()), *collector.iter_markers()]
    if inspect.iscoroutinefunction(inner) and not any(mark.name == "trio" for mark in marks):
        pytest.mark.anyio(obj)


def pytest_configure(config: pytest.Config) -> None:
    if path := os.environ.get("CRECHE_RESULTS"):
        config.pluginmanager.register(Results(path))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Storms and fuzzers wait for `-m long`, which .ci/long says; a plain run leaves them out by name, not by skipping."""
    if path := os.environ.get("CRECHE_ONLY"):
        only(path, config, items)
    if os.environ.get("CRECHE_RESUME"):
        resume(os.environ["CRECHE_RESULTS"], config, items)
    if config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def pytest_runtest_setup(item: pytest.Item) -> None:
    names = dict.fromkeys(name for mark in item.iter_markers("needs") for name in mark.args)
    reasons = {name: reason for name in names if (reason := missing(name)) is not None}
    if not reasons:
        return
    for name, reason in reasons.items():
        _not_run[f"{name}: {reason}"].append(item.nodeid)
    must = set(os.environ.get("CRECHE_MUST_HAVE", "").split(","))
    say = pytest.fail if must & reasons.keys() else pytest.skip
    say("needs " + "; ".join(f"{name}: {reason}" for name, reason in reasons.items()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _not_run:
        terminalreporter.section("needs that this machine does not meet")
        for need, tests in sorted(_not_run.items()):
            terminalreporter.write_line(f"{len(tests):5} tests need {need}")
