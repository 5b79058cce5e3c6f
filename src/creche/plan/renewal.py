"""Which containers can be made as they were at their start, and what of the host their init must keep for that."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Set
from itertools import pairwise

from ..errors import UnsupportedError
from ..hostview import HostListing
from ..machine import Machine
from ..spec.filesystem import (
    Bind,
    DevPts,
    Directory,
    File,
    HostView,
    Mount,
    Mqueue,
    Overlay,
    Proc,
    Symlink,
    Tmpfs,
)
from ..spec.spec import Spec
from . import steps as st
from .seccomp import compile_filter, verdict
from .seccomp.rules import Kind

__all__ = ["check_history", "check_renewable", "covers_trees", "keeps_mounts", "keeps_sources", "keyring_steps", "lets_keys", "renewable"]


def _refusals(spec: Spec) -> Iterator[tuple[str, str]]:
    """What stands in the way, and what to do about it."""
    if not spec.has_init:
        yield "a reset without an init of ours", "leave init and namespaces.pid True"
    for name in ("user", "mount", "ipc"):
        if getattr(spec.namespaces, name) is not True:
            yield f"a reset where namespaces.{name} is not the container's own: what a guest left there stays", f"leave namespaces.{name} True"
    for name in ("network", "uts", "cgroup", "time"):
        if not isinstance(getattr(spec.namespaces, name), bool):
            yield f"a reset where namespaces.{name} was joined: what a guest left there stays", f"give namespaces.{name} True or False"
    if spec.security.privileged:
        yield "a reset of a privileged container: its guests can change what a reset is made of", "leave security.privileged False"
    if "CAP_SYS_ADMIN" in spec.security.capabilities:
        yield "a reset where guests have CAP_SYS_ADMIN: they can change the mounts that a reset is made of", "leave it out of security.capabilities"
    if spec.rootfs is None:
        yield "a reset of the caller's own file system", "give the container a rootfs, such as HostView()"
    elif isinstance(spec.rootfs, Directory) and not spec.rootfs.readonly:
        yield "a reset of a Directory that guests write to: its files are yours", "give rootfs=Overlay([path]), whose writes are thrown away, or readonly=True"
    for field, layer in (("rootfs", spec.rootfs), *((f"mounts[{index}]", mount) for index, mount in enumerate(spec.mounts))):
        if isinstance(layer, Overlay) and layer.upper is not None:
            yield f"a reset of an upper layer of yours ({field})", "leave upper and work out, and it is thrown away"
        if isinstance(layer, Bind) and not layer.readonly:
            yield f"a reset of a Bind that guests write to ({field}): its files are yours", "give readonly=True, or an Overlay([source], target=…), whose writes are thrown away"


def renewable(spec: Spec) -> bool:
    """Whether nothing that a guest of this Spec may do outlives a reset."""
    return next(_refusals(spec), None) is None


def check_renewable(spec: Spec) -> None:
    """Raise UnsupportedError, which says what to give instead, where the Spec can't be reset."""
    for what, hint in _refusals(spec):
        raise UnsupportedError(what, hint)


def keeps_mounts(spec: Spec, view: HostListing) -> bool:
    """Whether a reset leaves the mounts as they are, but for what guests write to: the root of a HostView is read-only, and they can't mount.

    It does where each of the Spec's own lies by itself, not on or below another: then no link in one of them leads to another.
    """
    if not renewable(spec) or not isinstance(spec.rootfs, HostView) or covers_trees(spec, view):
        return False
    if not all(_simple(mount) for mount in spec.mounts):
        return False
    places = [*(mount.target or "" for mount in spec.mounts), *(spec.security.masked_paths or ()), *(spec.security.readonly_paths or ())]
    places += [] if "/tmp" in places else ["/tmp"]
    # sorted by their parts, what lies below a place follows it at once
    ordered = sorted(place.split("/") for place in places)
    return not any(below[: len(above)] == above for above, below in pairwise(ordered))


def _simple(mount: Mount) -> bool:
    """Whether it can stay, or be made anew in its place."""
    if isinstance(mount, Tmpfs):
        return not mount.copy_up
    if isinstance(mount, File):
        return mount.readonly
    return isinstance(mount, (Bind, Proc, DevPts, Mqueue))


def keeps_sources(spec: Spec, view: HostListing) -> bool:
    """Whether the init keeps a copy of each tree of the host's, from which a reset makes its mounts again.

    A HostView alone needs none: its mounts stay, or its trees, which are attached in a root that nobody can write to, are moved from there to the new one.
    """
    if not renewable(spec) or keeps_mounts(spec, view):
        return False
    if not isinstance(spec.rootfs, HostView) or spec.devices:
        return True
    return any(isinstance(mount, (Bind, Overlay)) for mount in spec.mounts) or covers_trees(spec, view)


def covers_trees(spec: Spec, view: HostListing) -> bool:
    """Whether something of the Spec's may lie on or below a tree of the HostView's, and would be moved along with it."""
    if any(isinstance(mount, Symlink) for mount in spec.mounts):
        return True  # and anything behind that
    security = spec.security
    targets = [mount.target or "" for mount in spec.mounts] + list(spec.devices)
    targets += [path for path in (*(security.masked_paths or ()), *(security.readonly_paths or ())) if path.split("/")[1:2] not in (["proc"], ["sys"])]
    roots = [*(path for path, _ in view.trees), *(path for path, _ in view.links), "/dev"]
    return any(target == root or target.startswith(root + "/") for target in targets for root in roots)


def check_history(spec: Spec, machine: Machine) -> None:
    """Raise UnsupportedError where a root of other layers could not take the place of one in use."""
    if not isinstance(spec.rootfs, Overlay) or not spec.rootfs.history:
        return
    check_renewable(spec)
    if not machine.overlay_lowerdir_plus or not machine.tmpfs_user_xattr:
        raise UnsupportedError(f"Overlay(history=True) on Linux {machine.release}: many layers take lowerdir+, which overlayfs has from 6.7 on", "boot a newer kernel")
    for index, mount in enumerate(spec.mounts):
        if not isinstance(mount, (Bind, Symlink)) and (mount.target or "").rstrip("/").count("/") != 1:
            raise UnsupportedError(f"Overlay(history=True) with mounts[{index}] at {mount.target}: it must move to each new root", "give it a target at the top, such as /data")
    security = spec.security
    if spec.devices or any(not path.startswith(("/proc/", "/sys/")) for path in (*(security.masked_paths or ()), *(security.readonly_paths or ()))):
        raise UnsupportedError("Overlay(history=True) with devices, or with paths masked or read-only in the root itself", "leave them out, or mount something there")


def lets_keys(spec: Spec, machine: Machine) -> bool:
    """Whether guests may use keys: the session's keyring, which no namespace hides, is then not the supervisor's but one of their own.

    It counts among the 200 keys that an ordinary user may have (kernel.keys.maxkeys), so the others do without. A call that is handed
    over may be let go on by whoever answers it.
    """
    security = spec.security
    if isinstance(security.seccomp, str):
        return False  # no profile of ours lets them through
    capabilities = frozenset(security.capabilities)
    filter = compile_filter(security.seccomp, arch=machine.arch, capabilities=capabilities, kernel=machine.kernel[:2])
    return filter is None or any(verdict(filter, name).kind >= Kind.NOTIFY for name in ("add_key", "request_key", "keyctl"))


def keyring_steps(spec: Spec, machine: Machine, uids: Set[int]) -> list[st.Step]:
    """Where guests may have used keys, what empties the keyrings of these uids, which belong to the user namespace.

    Raises UnsupportedError where they may have been any uid.
    """
    if not lets_keys(spec, machine):
        return []
    if "CAP_SETUID" in spec.security.capabilities:
        raise UnsupportedError(
            "a reset where guests have CAP_SETUID and may use keys (add_key, keyctl): any of its users may have left some",
            'leave it out of security.capabilities, or give security.seccomp="default", which refuses keys',
        )
    return [st.Keyrings(text=struct.pack(f"={len(uids)}I", *sorted(uids)), blame="security.seccomp")]
