"""Listening sockets which the supervisor holds and hands to its children, so that a restart refuses no connection."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from attrs import evolve, frozen

from creche.errors import SpecError
from creche.spec import Spec
from creche.supervisor.childspec import ChildSpec
from creche.supervisor.notify import with_env


@frozen
class Sockets:
    """The supervisor's sockets by name. They stay its own: it closes none of them."""

    by_name: Mapping[str, socket.socket]

    def check(self, child: ChildSpec) -> None:
        """A SpecError for a name that is none of ours."""
        for name in child.listen:
            if name not in self.by_name:
                known = ", ".join(sorted(self.by_name)) or "none"
                raise SpecError("child.listen", name, f"{child.name}: the supervisor's sockets are: {known}")

    def into(self, spec: Spec, child: ChildSpec) -> Spec:
        """The Spec with the sockets that the child listens on.

        A container gets a descriptor under the number that it has here (`Spec.pass_fds`), which is hardly ever 3.
        So what it is told is LISTEN_FDNAMES and CRECHE_LISTEN_FDS, the numbers in the same order, beside LISTEN_FDS,
        which counts from 3 and is set only where the numbers are in fact 3 and up.
        """
        if not child.listen:
            return spec
        fds = [self.by_name[name].fileno() for name in child.listen]
        env = {
            "CRECHE_LISTEN_FDS": ",".join(str(fd) for fd in fds),
            "LISTEN_FDNAMES": ":".join(child.listen),
        }
        if fds == list(range(3, 3 + len(fds))):
            env["LISTEN_FDS"] = str(len(fds))
        return with_env(evolve(spec, pass_fds=(*spec.pass_fds, *fds)), env)
