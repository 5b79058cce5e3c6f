"""Listening sockets which the supervisor holds and hands to its children, so that a restart refuses no connection."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from attrs import evolve, frozen

from creche.errors import SpecError
from creche.spec import Spec
from creche.supervisor.childspec import ChildSpec
from creche.supervisor.notify import with_env

FIRST = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)


@frozen
class Sockets:
    """The supervisor's sockets by name. They stay its own: it closes none of them."""

    by_name: Mapping[str, socket.socket]

    def check(self, child: ChildSpec) -> None:
        """A SpecError for a name that is none of ours, and for a Spec that they cannot be handed into."""
        for name in child.listen:
            if name not in self.by_name:
                known = ", ".join(sorted(self.by_name)) or "none"
                raise SpecError("child.listen", name, f"{child.name}: the supervisor's sockets are: {known}")
        if not child.listen or not isinstance(child.spec, Spec):
            return
        taken = set(child.spec.pass_fds) & set(range(FIRST, FIRST + len(child.listen)))
        if taken:
            raise SpecError(
                "child.spec.pass_fds", min(taken), f"{child.name}: listen= takes the numbers from {FIRST} on"
            )
        if child.spec.namespaces.pid is not True:
            wish = f"{child.name}: LISTEN_PID can be told only in a PID namespace of its own"
            raise SpecError("child.spec.namespaces.pid", child.spec.namespaces.pid, wish)

    def into(self, spec: Spec, child: ChildSpec) -> tuple[Spec, dict[int, int]]:
        """The Spec with the sockets that the child listens on, and which descriptor each number stands for.

        They are the numbers from 3 on, in the order of `listen`, and are told as sd_listen_fds(3) wants to hear it:
        LISTEN_FDS, LISTEN_FDNAMES, and LISTEN_PID, which in a PID namespace of its own is known beforehand: the
        main command is the first process there, after the init if there is one.
        """
        if not child.listen:
            return spec, {}
        sources = {FIRST + at: self.by_name[name].fileno() for at, name in enumerate(child.listen)}
        env = {
            "LISTEN_FDS": str(len(sources)),
            "LISTEN_FDNAMES": ":".join(child.listen),
            "LISTEN_PID": "2" if spec.has_init else "1",
        }
        return with_env(evolve(spec, pass_fds=(*spec.pass_fds, *sources)), env), sources
