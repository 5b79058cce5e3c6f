"""`creche audit` and `--preset`: promises that hold, one that does not, and presets that are the library's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from creche import Security, Spec
from creche.audit.auditing import Finding
from creche.cli import audit
from creche.cli.options import build_spec
from creche.cli.parameters import PRESETS, RunCommand, shared
from creche.spec import presets
from needs import needs


def creche(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "creche.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "worker.toml"
    path.write_text('command = ["cat"]\n[security]\nseccomp = "strict"\n')
    return str(path)


@needs("native", "userns")
def test_promises_that_hold(spec: str) -> None:
    """`cat` waits for an input that does not come, and is ended."""
    told = creche("audit", spec)
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines()[-1].endswith("promises, all hold")
    assert all(line.startswith("ok  ") for line in told.stdout.splitlines()[:-2])
    data = json.loads(creche("audit", "--json", spec, "sleep", "60").stdout)
    assert data["holds"] is True
    assert {"security.seccomp", "namespaces.pid"} <= {item["field"] for item in data["findings"]}


@needs("native", "userns")
def test_what_does_not_run_is_no_success(spec: str, tmp_path: Path) -> None:
    told = creche("audit", spec, "/nowhere/at/all")
    assert told.returncode == 125 and "creche: " in told.stderr
    told = creche("audit", spec, "true")
    assert told.returncode == 125 and "creche audit SPEC sleep 60" in told.stderr
    bare = tmp_path / "bare.toml"
    bare.write_text("")
    assert "give one, such as sleep 60" in creche("audit", str(bare)).stderr


def test_a_promise_that_does_not_hold_ends_with_1(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernel's answer escaped: a cgroup's name, say, is a stranger's text."""

    async def broken(_spec: Spec) -> tuple[Finding, ...]:
        return Finding("uid_map", "the host's root is nobody inside", "\x1b[2J0 is 0", False), Finding(
            "a", "b", "c", True
        )

    monkeypatch.setattr(audit, "_audited", broken)
    from click.testing import CliRunner

    told = CliRunner().invoke(audit.command, [spec])
    assert told.exit_code == 1
    assert told.output.startswith("NO  uid_map") and "\x1b" not in told.output
    assert told.output.endswith("2 promises, 1 do not hold\n")


def built(*words: str, base: Spec | None = None) -> Spec:
    @click.command("run", cls=RunCommand)
    @shared
    @click.pass_context
    def parse(ctx: click.Context, /, **given: object) -> Spec:
        return build_spec(given, given["command"], order=ctx.meta["creche.order"], base=base)  # type: ignore[arg-type]

    made: Spec = parse.main([*words, "true"], standalone_mode=False)
    return made


def test_the_names_are_the_library_s() -> None:
    assert set(PRESETS) == set(presets.PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_whole_security(name: str) -> None:
    """Whatever a spec file said of it."""
    base = Spec(["true"], security=Security(capabilities=["CAP_NET_RAW"]))
    assert (
        built("--preset", name).security
        == built("--preset", name, base=base).security
        == presets.preset(name)
    )


def test_options_change_single_things_of_a_preset() -> None:
    got = built("--cap-add", "SYS_CHROOT", "--preset", "build", "--cap-drop", "KILL").security
    want = {*presets.preset("build").capabilities, "CAP_SYS_CHROOT"} - {"CAP_KILL"}
    assert set(got.capabilities) == want
    assert built("--preset", "strict", "--seccomp", "default").security == Security()


def test_inspect_takes_one_too(spec: str) -> None:
    def score(*words: str) -> float:
        return float(json.loads(creche("inspect", "--json", spec, *words).stdout)["score"])

    assert score("--preset", "strict") == score() < score("--preset", "privileged")
    assert creche("inspect", "--preset", "stric", spec).returncode == 2


@needs("native", "userns")
def test_run_with_a_preset() -> None:
    """strict refuses sockets; the control is the default."""
    code = "import socket; socket.socket()"
    assert creche("run", "--preset", "default", "python3", "-c", code).returncode == 0
    assert creche("run", "--preset", "strict", "python3", "-c", code).returncode != 0
