"""The doctor's findings as a pure function, and how they are printed."""

import errno as e

import attrs
import click

from creche.cli.doctor import render
from creche.doctor import Finding, Limitation, examine, healthy
from creche.machine import Machine
from creche.trial import Trial

ALL = dict.fromkeys(("mount", "pid", "network", "ipc", "uts", "cgroup", "time"), 0)
FILES = dict.fromkeys(("private", "tmpfs", "fsopen", "proc", "sysfs", "mqueue", "devpts", "overlay"), 0)
GOOD = Trial(filtered={"clone3": 0, "mount": 0}, userns=0, id_map=0, namespaces=ALL, mounts=FILES)
USER = Machine.example()


def found(machine: Machine = USER, trial: Trial = GOOD, **more: object) -> dict[str, Finding]:
    """The findings by name."""
    return {finding.name: finding for finding in examine(machine, trial, **more)}  # type: ignore[arg-type]


def test_a_good_machine_is_healthy() -> None:
    """Nothing is missing and every finding says yes."""
    findings = examine(
        USER, GOOD, place="v2: /sys/fs/cgroup/x", controllers=("cpu", "memory", "pids"), started="in 3 ms"
    )
    assert healthy(findings)
    assert {finding.state for finding in findings} == {"yes"}


def test_an_old_kernel_is_not() -> None:
    """5.14 is the floor."""
    finding = found(attrs.evolve(USER, kernel=(5, 10, 0)))["version"]
    assert (finding.state, finding.needed) == ("no", True)
    assert "5.14" in finding.fix


def test_features_alone_do_not_make_it_ill() -> None:
    """No sub-ids, no Landlock, no time namespace: a Spec may ask for them, most do not."""
    machine = attrs.evolve(USER, subuid=(), landlock_abi=0)
    trial = attrs.evolve(GOOD, namespaces={**ALL, "time": e.EINVAL})
    findings = examine(machine, trial)
    assert {f.name for f in findings if f.state == "no"} == {"many users in a container", "Landlock", "time"}
    assert healthy(findings)


def test_limits_that_cannot_hold_make_it_ill() -> None:
    """Without a cgroup, or without its controllers, a Spec with limits is refused: that matters."""
    none = found(place=Limitation("not delegated", "systemctl edit user@.service"))["cgroup"]
    assert (none.state, none.needed, none.fix) == ("no", True, "systemctl edit user@.service")
    some = found(place="v2", controllers=("memory", "pids"))["missing controllers"]
    assert (some.state, some.needed, some.found) == ("no", True, "cpu")


def test_a_container_that_did_not_start_is_told_with_its_reason() -> None:
    """Trials can miss something; the real thing has the last word."""
    assert not healthy(examine(USER, GOOD, started=Limitation("mounts[0]: no", "do this")))


def test_one_cause_is_told_once() -> None:
    """Five mounts refused by one filter are one finding."""
    trial = attrs.evolve(GOOD, filtered={"mount": e.EPERM}, mounts=dict.fromkeys(FILES, e.EPERM))
    refused = [f for f in examine(USER, trial) if f.topic == "mounts"]
    assert len(refused) <= 2
    assert "tmpfs" in refused[0].name


def test_an_old_overlay_is_told() -> None:
    """Before 6.7 many layers must fit into 255 bytes."""
    finding = found(attrs.evolve(USER, kernel=(6, 1, 0)))["overlay with many layers"]
    assert finding.state == "partly"


def test_printing_wraps_prose_and_never_a_command() -> None:
    """A fix is there to be copied, so a command stays on its line; a heredoc keeps its lines."""
    words = "because " * 30
    command = "sudo sysctl -w " + "x" * 120 + " y"
    prose = Finding("a", "one", "no", "EPERM", words, "do " * 60, True)
    copied = Finding("a", "two", "no", "EPERM", "why", command, True)
    text = click.unstyle(render((prose, copied), width=80))
    assert command in text
    assert max(len(line) for line in text.splitlines() if "xxx" not in line) < 80
    assert "2 things are missing" in text
