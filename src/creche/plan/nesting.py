"""Containers that are forked from a template: which Specs can be, and what the template's own container is like."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from attrs import evolve

from ..errors import UnsupportedError
from ..machine import Machine
from ..spec.filesystem import Bind, Directory, Mount, Overlay, Rootfs, Sysfs, Tmpfs
from ..spec.limits import Limits
from ..spec.security import Security
from ..spec.spec import Spec
from .command import filter_of
from .ids import Identity
from .mounts import place_of

__all__ = ["check_forkable", "check_ids", "layers_of", "nested_spec", "template_spec"]

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
    if spec.rootfs is None:
        yield "in the caller's own file system", "give the container a rootfs, such as HostView()"
    elif isinstance(spec.rootfs, Directory) and not spec.rootfs.readonly:
        yield "with a Directory that guests write to: the template would load what they leave there", "give rootfs=Overlay([path]), whose writes are thrown away, or readonly=True"
    for field, layer in (("rootfs", spec.rootfs), *((f"mounts[{index}]", mount) for index, mount in enumerate(spec.mounts))):
        if isinstance(layer, Overlay) and layer.upper is not None:
            yield f"with an upper layer of yours ({field}): all its containers would write to it at once", "leave upper and work out, and each has its own, which is thrown away"
        if isinstance(layer, Overlay) and layer.history:
            yield f"with a history ({field}): what a template forked runs one command", "leave history out"
        if isinstance(layer, Overlay) and not machine.tmpfs_user_xattr:
            yield f"with an Overlay ({field}) before Linux 6.6, where what is thrown away lies in folders of the host's", "boot a newer kernel, or give the files as a Bind"
        if isinstance(layer, Sysfs) or (isinstance(layer, Tmpfs) and layer.copy_up):
            yield f"with {field}, a {type(layer).__name__}{'(copy_up=True)' if isinstance(layer, Tmpfs) else ''}", "mount a Bind, an Overlay or a Tmpfs there"
    if layers_of(spec) and any(mount.target == "/dev" for mount in spec.mounts):
        yield "with something of its own at /dev, where the template has the forks' layers", "leave that mount out; /dev is there"
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


def layers_of(spec: Spec) -> tuple[tuple[str, bool], ...]:
    """The host's folders of which the forks' roots and overlays are made, and whether with what is mounted below each.

    The template's container has them out of its own root, which its forks could not take: it has mounts in it that are locked to
    whoever is in another user namespace (mount_namespaces(7)), and an overlay on an overlay is as deep as the kernel stacks.
    """
    found: list[tuple[str, bool]] = []
    for part in (spec.rootfs, *spec.mounts):
        if isinstance(part, Directory):
            found.append((part.path, True))
        elif isinstance(part, Overlay):
            found += [(path, False) for path in part.lower]
    return tuple(found)


def nested_spec(spec: Spec) -> Spec:
    """The Spec as seen from inside the template's container, where each Bind's source is what is mounted at its target, and
    layers lie where `layers_of` has them."""
    places = (place_of(number) for number in count())
    rootfs: Rootfs = spec.rootfs
    if isinstance(rootfs, Directory):
        rootfs = Directory(next(places), readonly=rootfs.readonly)
    elif isinstance(rootfs, Overlay):
        rootfs = evolve(rootfs, lower=[next(places) for _ in rootfs.lower])

    def seen(mount: Mount) -> Mount:
        if isinstance(mount, Bind):
            return Bind(mount.target, mount.target, readonly=mount.readonly, nosuid=mount.nosuid, nodev=mount.nodev, noexec=mount.noexec)
        return evolve(mount, lower=[next(places) for _ in mount.lower]) if isinstance(mount, Overlay) else mount

    return evolve(spec, rootfs=rootfs, mounts=[seen(mount) for mount in spec.mounts])
