"""What works here, what does not, why, and what would change it: findings as values, made by a pure function."""

from __future__ import annotations

import errno as e
import os
import signal
from collections.abc import Iterator
from typing import Literal

import attrs

from .diagnose import (
    Evidence,
    Refusal,
    why_filtered,
    why_no_id_map,
    why_no_mount,
    why_no_own_id,
    why_no_userns,
)
from .machine import KERNEL_FLOOR, Machine
from .trial import Trial

__all__ = ["Finding", "Limitation", "examine", "healthy"]

State = Literal["yes", "no", "partly"]


@attrs.frozen
class Limitation:
    """Something that was tried outside of this module, for example a cgroup place, and failed."""

    sentence: str
    hint: str


@attrs.frozen
class Finding:
    """One line of the doctor's report.

    `needed` findings decide the exit status: without them no container starts, or no limit holds. The others are
    features that a Spec may ask for. `why` and `fix` are "" where all is well.
    """

    topic: str
    name: str
    state: State
    found: str
    why: str = ""
    fix: str = ""
    needed: bool = False


def healthy(findings: tuple[Finding, ...]) -> bool:
    """Whether everything that is needed is there."""
    return all(finding.state != "no" for finding in findings if finding.needed)


def examine(
    machine: Machine,
    trial: Trial,
    *,
    place: str | Limitation | None = None,
    controllers: tuple[str, ...] = (),
    started: str | Limitation | None = None,
    executable: str = "/usr/bin/python3",
) -> tuple[Finding, ...]:
    """Every finding, in the order in which a container meets them.

    *place* and *controllers* are the cgroup where containers would go; *started* is how a real container fared.
    None means that it was not tried.
    """
    return (
        *_kernel(machine),
        *_calls(machine, trial),
        *_user(machine),
        *_namespaces(machine, trial, executable),
        *_mounts(machine, trial, executable),
        *_cgroup(machine, place, controllers),
        *_security(machine),
        *_started(started),
    )


def _kernel(machine: Machine) -> Iterator[Finding]:
    floor = ".".join(map(str, KERNEL_FLOOR))
    where = f"Linux {machine.release}, {machine.arch}" + (
        f", inside {machine.engine}" if machine.engine else ""
    )
    if machine.supported:
        yield Finding("kernel", "version", "yes", where, needed=True)
    else:
        yield Finding(
            "kernel",
            "version",
            "no",
            where,
            f"older than {floor}",
            f"boot a kernel of {floor} or later",
            True,
        )


def _user(machine: Machine) -> Iterator[Finding]:
    who = f"{machine.user_name or '?'} ({machine.euid}:{machine.egid})"
    if machine.is_root:
        who += ", may mount and map any id of this user namespace"
    yield Finding("user", "who", "yes", who)
    if machine.many_ids:
        start, count = machine.subuid[0]
        found = f"{count:,} ids from {start:,} ({machine.subid_source})"
        yield Finding("user", "many users in a container", "yes", found)
    else:
        why, fix = why_no_id_map(machine)
        yield Finding("user", "many users in a container", "no", "a container has one user", why, fix)


def _calls(machine: Machine, trial: Trial) -> Iterator[Finding]:
    refused = {name: answer for name, answer in trial.filtered.items() if answer}
    if not refused:
        found = "none that matters" if machine.seccomp else "none"
        yield Finding("kernel", "outer seccomp filter", "yes", found, needed=True)
        return
    calls = ", ".join(f"{name} ({_name(answer)})" for name, answer in refused.items())
    why = "the seccomp filter around this process refuses calls that containers are made with"
    fix = why_no_userns(machine, e.EPERM, Evidence(clone3=e.EPERM)).hint
    if refused.keys() <= {"sethostname", "setdomainname"}:  # only a name of its own is out of reach
        why, fix = why_filtered(machine, "sethostname", max(refused.values()))
    yield Finding("kernel", "outer seccomp filter", "no", f"refuses {calls}", why, fix, True)


def _namespaces(machine: Machine, trial: Trial, executable: str) -> Iterator[Finding]:
    if trial.userns:
        # a filter has been asked about already, by itself: what is left is the kernel's own reason
        filtered = trial.filtered.get("clone3") or trial.filtered.get("unshare")
        evidence = Evidence(clone3=filtered or e.EINVAL, executable=executable)
        why, fix = why_no_userns(machine, trial.userns, evidence)
        yield Finding("namespaces", "user", "no", _name(trial.userns), why, fix, True)
        return
    if trial.id_map:
        refusal = why_no_own_id(machine, trial.id_map, Evidence(clone3=e.EINVAL, executable=executable))
        found = f"made, but its id map was refused: {_name(trial.id_map)}"
        yield Finding("namespaces", "user", "no", found, *refusal, True)
        return
    yield Finding("namespaces", "user", "yes", "works", needed=True)
    good = [kind for kind, answer in trial.namespaces.items() if answer == 0]
    if good:
        yield Finding("namespaces", "others", "yes", ", ".join(good), needed=True)
    for kind, answer in trial.namespaces.items():
        if answer:
            why, fix = _why_not_this_kind(machine, kind, answer, executable)
            yield Finding("namespaces", kind, "no", _name(answer), why, fix, kind != "time")


def _why_not_this_kind(machine: Machine, kind: str, answer: int, executable: str) -> Refusal:
    file = {"mount": "mnt", "network": "net"}.get(kind, kind)
    if answer == e.EINVAL or file not in machine.namespaces:
        without = "nothing, unless a Spec has time_offsets" if kind == "time" else f"Namespaces({kind}=False)"
        return Refusal(f"this kernel was built without {kind} namespaces", without)
    if answer == e.ENOSPC:
        sysctl = f"user.max_{file}_namespaces"
        return Refusal(f"{sysctl} is reached, or 0", f"sudo sysctl -w {sysctl}=15000")
    return why_no_mount(machine, answer, evidence=Evidence(executable=executable))


def _mounts(machine: Machine, trial: Trial, executable: str) -> Iterator[Finding]:
    good = [
        kind for kind, answer in trial.mounts.items() if answer == 0 and kind not in ("private", "fsopen")
    ]
    if good:
        yield Finding("mounts", "file systems", "yes", ", ".join(good), needed=True)
    evidence = Evidence(mount=trial.filtered.get("mount") or e.ENOENT, executable=executable)
    refused: dict[tuple[int, Refusal], list[str]] = {}  # one finding for all that have one cause
    for kind, answer in trial.mounts.items():
        if answer:
            refused.setdefault((answer, why_no_mount(machine, answer, kind, evidence)), []).append(kind)
    for (answer, refusal), kinds in refused.items():
        needed = bool({"private", "tmpfs", "fsopen", "proc"} & set(kinds))
        yield Finding("mounts", ", ".join(kinds), "no", _name(answer), *refusal, needed)
    if trial.mounts.get("overlay") == 0 and not machine.overlay_lowerdir_plus:
        why = "layers are named one by one from 6.7 on; before, all of them share one string of 255 bytes"
        yield Finding(
            "mounts",
            "overlay with many layers",
            "partly",
            "short paths only",
            why,
            "boot kernel 6.7 or later",
        )


def _cgroup(
    machine: Machine, place: str | Limitation | None, controllers: tuple[str, ...]
) -> Iterator[Finding]:
    if place is None:
        return
    if isinstance(place, Limitation):
        yield Finding("limits", "cgroup", "no", "none for us", place.sentence, place.hint, True)
        return
    yield Finding("limits", "cgroup", "yes", place, needed=True)
    missing = [name for name in ("memory", "pids", "cpu") if name not in controllers]
    if controllers:
        yield Finding("limits", "controllers", "yes", " ".join(sorted(controllers)))
    if missing:
        yield Finding(
            "limits",
            "missing controllers",
            "no",
            " ".join(missing),
            "whoever manages cgroups around us did not hand these down",
            "systemd: a drop-in for user@.service with [Service] Delegate=cpu cpuset io memory pids; else write"
            f" '+{' +'.join(missing)}' to the parent's cgroup.subtree_control",
            True,
        )


def _security(machine: Machine) -> Iterator[Finding]:
    if machine.landlock_abi:
        yield Finding("security", "Landlock", "yes", f"version {machine.landlock_abi}")
    elif machine.landlock_abi == 0:
        why = "the kernel was built or booted without it"
        yield Finding(
            "security", "Landlock", "no", "not there", why, "boot with lsm=landlock,… on the kernel's line"
        )
    if machine.no_new_privs:
        yield Finding("security", "no_new_privs", "partly", "set on this process: setuid helpers do not work")
    if machine.apparmor_restrict_userns:
        found = f"restricts user namespaces; our profile: {machine.apparmor_label}"
        yield Finding("security", "AppArmor", "yes", found)
    elif machine.apparmor_label:
        yield Finding("security", "AppArmor", "yes", f"our profile: {machine.apparmor_label}")
    if machine.chrooted:
        yield Finding("surroundings", "chroot", "partly", "this process is in a chroot")


def _started(started: str | Limitation | None) -> Iterator[Finding]:
    if isinstance(started, Limitation):
        yield Finding("container", "a first one", "no", "did not start", started.sentence, started.hint, True)
    elif started is not None:
        yield Finding("container", "a first one", "yes", started, needed=True)


def _name(answer: int) -> str:
    if answer < 0:
        return f"killed by {signal.Signals(-answer).name}"
    return f"{e.errorcode.get(answer, answer)}, {os.strerror(answer).lower()}"
