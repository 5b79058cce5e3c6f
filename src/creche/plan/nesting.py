"""Containers that are forked from a template: which Specs can be, and what the template's own container is like."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import evolve

from ..errors import UnsupportedError
from ..machine import Machine
from ..spec.filesystem import Bind, HostView, Overlay, Sysfs, Tmpfs
from ..spec.limits import Limits
from ..spec.security import Security
from ..spec.spec import Spec
from .command import filter_of
from .ids import Identity

__all__ = ["check_forkable", "check_ids", "nested_spec", "template_spec"]

#: What writes a nested user namespace's maps, the container's own uid 0 among them: user_namespaces(7).
_MAPPING = ("CAP_SETUID", "CAP_SETGID", "CAP_SETFCAP")


def _refusals(spec: Spec, machine: Machine) -> Iterator[tuple[str, str]]:
    """What stands in the way, and what to do about it."""
    for name in ("user", "mount", "ipc"):
        if getattr(spec.namespaces, name) is not True:
            yield f"where namespaces.{name} is not the container's own", f"leave namespaces.{name} True"
    for name in ("network", "uts", "cgroup"):
        if not isinstance(getattr(spec.namespaces, name), bool):
            yield f"where namespaces.{name} is joined", f"give namespaces.{name} True or False"
    if spec.namespaces.time is not False or spec.time_offsets:
        yield "with a time namespace: the template's clocks are read already", "leave namespaces.time False"
    if not isinstance(spec.rootfs, HostView):
        yield "with a rootfs other than HostView()", "leave rootfs out, and give the files as mounts, such as Bind('/srv/venv', '/srv/venv', readonly=True)"
    for index, mount in enumerate(spec.mounts):
        if isinstance(mount, (Overlay, Sysfs)) or (isinstance(mount, Tmpfs) and mount.copy_up):
            yield f"with mounts[{index}], a {type(mount).__name__}{'(copy_up=True)' if isinstance(mount, Tmpfs) else ''}", "mount a Bind or a Tmpfs there"
    security = spec.security
    if security.privileged or "CAP_SYS_ADMIN" in security.capabilities:
        yield "whose guests may mount: below their mounts lie the template's", "leave privileged and CAP_SYS_ADMIN out of security"
    if not security.no_new_privs:
        yield "without no_new_privs: the template has it, and it is for ever", "leave security.no_new_privs True"
    if security.apparmor is not None or security.selinux is not None:
        yield "with a label (security.apparmor, security.selinux): the kernel gives it at an exec", "leave it out"
    compiled = filter_of(spec, machine)
    if compiled is not None and compiled.needs_listener:
        yield "with a filter that reports or asks", "leave security.seccomp_report and SeccompRules(notify=…) out"
    if spec.min_strength != "full":
        yield "with less than full strength", 'leave min_strength "full"'


def check_forkable(spec: Spec, machine: Machine) -> None:
    """Raise UnsupportedError, which says what to give instead, where such a container can't be forked from a template."""
    for what, hint in _refusals(spec, machine):
        raise UnsupportedError(f"a warm pool {what}", hint)


def check_ids(who: Identity, machine: Machine) -> None:
    """The template's /proc is as the kernel gives it: that is not for an id that is the host's root."""
    if machine.initial_user_namespace and any(item.outside == 0 for item in who.uid_map):
        raise UnsupportedError("a warm pool whose uid_map has the host's root", "leave uid_map out, or map other ids")


def template_spec(spec: Spec) -> Spec:
    """The container in which the template lives. It shows what the forks' show, and is not limited: its memory is every fork's.

    Nothing of its /proc is covered, for the kernel gives no fresh one to somebody nested who could then see more.
    """
    return evolve(
        spec, limits=Limits(), rlimits={}, nice=None, oom_score_adj=None, umask=None,
        security=Security(capabilities=_MAPPING, seccomp=None, masked_paths=(), readonly_paths=()),
    )  # fmt: skip


def nested_spec(spec: Spec) -> Spec:
    """The Spec as seen from inside the template's container, where each Bind's source is what is mounted at its target."""
    mounts = [Bind(mount.target, mount.target, readonly=mount.readonly, nosuid=mount.nosuid, nodev=mount.nodev, noexec=mount.noexec) if isinstance(mount, Bind) else mount for mount in spec.mounts]
    return evolve(spec, mounts=mounts)
