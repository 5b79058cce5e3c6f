"""What containers with the same HostView share: which may, and the Steps by which it is made once for all of them."""

from __future__ import annotations

from itertools import count

from attrs import field, frozen

from ..hostview import HostListing
from ..machine import Machine
from ..spec.filesystem import HostView, Symlink
from ..spec.identity import IdMap
from ..spec.spec import Spec
from ..values import Value
from . import steps as st
from .ids import Identity, map_text
from .mounts import MS_PRIVATE, Mounts

__all__ = ["View", "may_share", "view_of"]

#: From here on a detached mount can be attached to and cloned (fs/namespace.c: may_copy_tree).
KERNEL = (6, 15)
_numbers = count(1)
_MOST = 16


@frozen(kw_only=True, eq=False, repr=False)
class View(Value):
    """The Plan of the process that makes it, and its number among all that this process knows."""

    parent: tuple[st.Step, ...]
    setup: tuple[st.Step, ...]
    number: int = field(factory=lambda: next(_numbers))


def may_share(spec: Spec, machine: Machine) -> bool:
    """Whether nothing of this container's own lies in what would be shared: /etc and /dev are as the HostView has them."""
    names = spec.namespaces
    if machine.kernel[:2] < KERNEL or not isinstance(spec.rootfs, HostView) or not spec.has_init or names.user is not True or names.mount is not True:
        return False
    if any(isinstance(mount, Symlink) for mount in spec.mounts):
        return False  # which may lead there
    targets = [*(mount.target or "" for mount in spec.mounts), *spec.devices]
    return not any(f"{target}/".startswith(("/etc/", "/dev/")) for target in targets)


_views: dict[object, tuple[Machine, HostListing, View]] = {}


def view_of(spec: Spec, machine: Machine, listing: HostListing) -> View:
    """The one for this Spec: the same for all that differ in nothing that it shows."""
    key = id(machine), id(listing), spec.namespaces.network is True, spec.namespaces.ipc is True, spec.security.no_new_privs
    found = _views.get(key)
    if found is None:
        if len(_views) >= _MOST:
            del _views[next(iter(_views))]
        # machine and listing are kept with it, so that their ids stay theirs
        found = _views[key] = machine, listing, _make(spec, machine, listing)
    return found[2]


def _make(spec: Spec, machine: Machine, listing: HostListing) -> View:
    """By a process in namespaces of its own, whose one id is the caller's."""
    uid_map, gid_map = (IdMap(0, machine.euid, 1),), (IdMap(0, machine.egid, 1),)
    who = Identity(uid_map, gid_map, new=True)
    mounts = Mounts(spec, machine, who, listing, {}, None)
    mounts.for_all()
    deny = 0 if machine.may_map_ids else st.DENY_SETGROUPS
    return View(
        parent=(
            st.Map(text=map_text(gid_map), flags=st.GROUP_MAP | deny, blame="gid_map"),
            st.Map(text=map_text(uid_map), blame="uid_map"),
        ),
        setup=(st.Propagation(a=MS_PRIVATE), *mounts.host, st.Identity(blame="rootfs"), *mounts.build),
    )
