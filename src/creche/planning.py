"""The Plan that a Spec would become here and now, without making anything: for `creche plan`."""

from __future__ import annotations

import os

from . import commands
from .hostview import listing
from .kernelfs import kernel_trees
from .machine import probe
from .plan.compile import Context, Plan, compile, needs_scratch
from .plan.ids import RANGE, wants_range
from .plan.strength import weaken
from .spec.spec import Spec
from .spec.strength import Strength

__all__ = ["plan_of"]

SCRATCH = "/var/tmp/creche-upper-…"


def plan_of(spec: Spec) -> Plan:
    """Compile *spec* for this machine and user. Raises SpecError and UnsupportedError, as a start would.

    Nothing is reserved: the range of ids is the first that a container could get, and the throw-away folder (before
    Linux 6.6) has no name yet.
    """
    weaker = spec.min_strength != Strength.FULL
    machine = probe(landlock=spec.security.landlock is not None or weaker, clone3=weaker)
    spec, _ = weaken(spec, machine, listing())
    ranged = wants_range(spec, machine)
    context = Context(
        view=listing(),
        base=machine.subuid[0][0] if ranged else None,
        count=min(machine.subuid[0][1], RANGE) if ranged else 0,
        scratch=SCRATCH if needs_scratch(spec, machine) else None,
        caller=os.environ,
        command_cgroups=int(bool(spec.limits)),
        rlimits=commands.rlimits(),
        held=ranged,
        kernels=kernel_trees(spec),
    )
    return compile(commands.without_missing(spec), machine, context)
