"""What a container may do, by name: four Securities that cover what most programs are."""

from __future__ import annotations

from ..errors import SpecError
from .checks import nearest
from .security import Security

__all__ = ["PRESETS", "preset"]

#: Unpacking and installing as the container's root: other owners, modes and users, and nothing of the network's or the machine's.
_BUILD = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETFCAP", "SETGID", "SETUID")

PRESETS: dict[str, Security] = {
    "default": Security(),
    "strict": Security(seccomp="strict"),
    "build": Security(capabilities=_BUILD),
    "privileged": Security(privileged=True, seccomp=None, no_new_privs=False),
}


def preset(name: str) -> Security:
    """The Security of this name; ``attrs.evolve`` changes single fields of it.

    - ``"default"``: what `Spec` has without one: no capabilities, the default filter, no_new_privs
    - ``"strict"``: beside that no new processes and no sockets: for code that computes
    - ``"build"``: as default, with the capabilities by which a package manager or ``make install`` sets owners and modes
      inside the container (files of the container's ids alone; give it a `Spec.uid_map` or a root that has many ids)
    - ``"privileged"``: no defence but namespaces; with ``Namespaces(user=False)`` this is the host's root

    Raises SpecError for another name.
    """
    if name not in PRESETS:
        raise SpecError("preset", name, f"give one of {', '.join(PRESETS)}{nearest(name, tuple(PRESETS))}")
    return PRESETS[name]
