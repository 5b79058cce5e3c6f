"""`creche inspect`: every weakening of a Spec is seen, named by its field, and raises the score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from creche import Bind, Directory, IdMap, Limits, Namespaces, Overlay, SeccompRules, Security, Spec
from creche.audit.inspecting import inspect
from creche.cli.main import cli
from creche.spec.presets import preset

WEAKER = {
    "security.seccomp": [{"security": Security(seccomp=None)}, {"security": Security(seccomp=SeccompRules(allow=["io_uring_setup"]))}],
    "security.capabilities": [{"security": Security(capabilities=["CAP_CHOWN"])}],
    "security.no_new_privs": [{"security": Security(no_new_privs=False, seccomp=None)}],
    "security.masked_paths": [{"security": Security(masked_paths=())}],
    "security.readonly_paths": [{"security": Security(readonly_paths=["/proc/bus"])}],
    "namespaces.network": [{"namespaces": Namespaces(network=False)}, {"namespaces": Namespaces(network="/run/netns/x")}],
    "namespaces.pid": [{"namespaces": Namespaces(pid=False)}],
    "namespaces.user": [{"namespaces": Namespaces(user=False)}],
    "uid_map": [{"uid_map": [IdMap(0, 0, 1)]}],
    "rootfs": [{"rootfs": None}, {"rootfs": Directory("/srv/x")}],
    "mounts[0]": [
        {"mounts": [Bind("/srv/x", "/x")]},
        {"mounts": [Bind("/run/docker.sock", "/x", readonly=True)]},
        {"mounts": [Bind("/", "/x", readonly=True)]},
        {"mounts": [Bind("/srv/x", "/x", readonly=True, nodev=False)]},
    ],
    "devices": [{"devices": ["/dev/sda"]}],
    "stdin": [{"stdin": "inherit"}],
    "pass_fds": [{"pass_fds": [7]}],
    "inherit_env": [{"inherit_env": ["TOKEN"]}],
}
GOOD = Spec(["true"], limits=Limits(memory="64M", pids=10, cpus=1))


@pytest.mark.parametrize(("field", "change"), [(field, change) for field, changes in WEAKER.items() for change in changes])
def test_a_weakening_is_named_and_raises_the_score(field: str, change: dict[str, object]) -> None:
    import attrs

    found = inspect(attrs.evolve(GOOD, **change))
    rows = [item for item in found.exposures if item.field == field]
    assert max(item.bad for item in rows) > max((item.bad for item in inspect(GOOD).exposures if item.field == field), default=0)
    assert found.score > inspect(GOOD).score


def test_the_scale() -> None:
    assert inspect(GOOD).level == "safe"
    assert inspect(Spec(["true"], rootfs=Overlay(["/srv/base"]), security=preset("strict"), limits=GOOD.limits)).score == 0.0
    scores = [inspect(Spec(["true"], security=preset(name))).score for name in ("strict", "default", "build", "privileged")]
    assert scores == sorted(scores) and len(set(scores)) == 4
    assert inspect(Spec(["true"], security=preset("privileged"), namespaces=Namespaces(user=False))).score == 10.0


def test_who_traces_the_init_has_all_that_it_has() -> None:
    def told(**fields: object) -> tuple[str, float]:
        (row,) = [item for item in inspect(Spec(["true"], **fields)).exposures if item.field == "security.capabilities"]
        return row.means, row.bad

    named = Security(privileged=True, capabilities=["CAP_SYS_PTRACE"])
    assert "by tracing the init" in told(security=named)[0]
    assert "by tracing" not in told(security=named, init=False)[0]
    assert "over its mounts" in told(security=Security(capabilities=["CAP_SYS_ADMIN"]))[0]
    assert told(security=named)[1] > told(security=Security(capabilities=["CAP_KILL"]))[1]


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text('command = ["make"]\nname = "x"\nmounts = [{type = "bind", source = "/srv/\\u001b[31m", target = "/x"}]\n')
    done = CliRunner().invoke(cli, ["inspect", str(path)])
    assert done.exit_code == 0 and "exposure" in done.output.splitlines()[-1]
    assert "\x1b" not in done.output and "\\x1b[31m" in done.output
    table = json.loads(CliRunner().invoke(cli, ["inspect", "--json", str(path)]).output)
    assert table["level"] == "good" and {"field", "means", "bad", "weight", "advice"} == set(table["exposures"][0])
    assert CliRunner().invoke(cli, ["inspect", "--threshold", "0.1", str(path)]).exit_code == 1
    assert CliRunner().invoke(cli, ["inspect", "--threshold", "9", str(path)]).exit_code == 0
    path.write_text("comand = []\n")
    assert "comand" in CliRunner().invoke(cli, ["inspect", str(path)]).output
