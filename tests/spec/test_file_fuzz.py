"""Whatever bytes a spec file holds: a Spec comes of it, or a SpecError that can be printed; nothing else, and no wait."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creche import Spec, SpecError

GOOD = """\
# a worker
command = ["python3", "worker.py"]
cwd = "/work"
env = { PATH = "/usr/bin", LANG = "C.UTF-8" }
umask = 0o22
user = 1000

[limits]
memory = "256M"
cpus = 1.5
pids = 64
io = { "/var" = { rbps = "10M" } }

[[mounts]]
type = "bind"
source = "/srv/worker"
target = "/work"
readonly = true

[[mounts]]
type = "tmpfs"
target = "/scratch"
size = "16M"

[security]
seccomp = { allow = ["ptrace"], base = "strict" }
capabilities = ["CAP_KILL"]

[rlimits]
nofile = [64, "unlimited"]
"""
TOKENS = (
    "\n",
    "=",
    '"',
    "'",
    "[",
    "]",
    "[[",
    "{",
    "}",
    ",",
    ".",
    "#",
    "-1",
    "nan",
    "inf",
    "1e400",
    "9" * 400,
    "true",
    "1979-05-27",
    "0x",
)
WORDS = (
    "command",
    "limits",
    "memory",
    "mounts",
    "type",
    "overlay",
    "\\u0000",
    "\\x1b",
    "\x1b[2J",
    "\x00",
    "\ud7ff",
    '"""',
)
PARTS = st.sampled_from((*TOKENS, *WORDS))


def outcome(data: bytes, suffix: str) -> Spec | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "spec" + suffix)
        path.write_bytes(data)
        try:
            spec = Spec.from_file(path)
        except SpecError as error:
            assert str(error).isprintable() and error.field is not None
            return None
    assert Spec.from_dict(spec.to_dict()) == spec
    return spec


def test_the_file_that_is_changed_is_good() -> None:
    """The control: or all that follows would be refused at once."""
    spec = outcome(GOOD.encode(), ".toml")
    assert spec is not None and spec.limits.pids == 64 and len(spec.mounts) == 2
    assert outcome(json.dumps({"command": ["true"], "limits": {"pids": 1}}).encode(), ".json") is not None


@settings(deadline=None)
@given(st.data())
def test_a_good_file_with_a_few_changes(data: st.DataObject) -> None:
    text = GOOD
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        to = data.draw(st.integers(at, min(at + 12, len(text))))
        text = text[:at] + data.draw(PARTS | st.text(max_size=4)) + text[to:]
    outcome(text.encode("utf-8", "surrogatepass"), ".toml")


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from([".toml", ".json", "", ".yaml"]))
def test_any_bytes(data: bytes, suffix: str) -> None:
    outcome(data, suffix)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_any_json(value: Any) -> None:
    outcome(json.dumps(value).encode("utf-8", "surrogatepass"), ".json")


@pytest.mark.parametrize(("opened", "suffix"), [("[", ".json"), ('{"a":', ".json"), ("a = [", ".toml")])
def test_a_file_nested_without_end(opened: str, suffix: str) -> None:
    """A RecursionError of the parser's would be a traceback."""
    assert outcome((opened[:-1] + opened[-1:] * 100_000).encode(), suffix) is None
