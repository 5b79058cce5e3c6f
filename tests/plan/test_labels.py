"""Labels taken at exec: where in a command's Steps they are written, and what a kernel without their module comes to."""

from __future__ import annotations

import attrs
import pytest

from creche.errors import UnsupportedError
from creche.machine import Machine
from creche.plan import steps as st
from creche.plan.compile import Context, compile
from creche.spec import Security, Spec

LABEL = "system_u:system_r:container_t:s0:c1,c2"
LABELLED = attrs.evolve(Machine.example(), selinux=True)


def test_selinux_is_told_by_the_command_itself_when_it_is_who_it_will_be() -> None:
    plan = compile(Spec(["true"], security=Security(selinux=LABEL)), LABELLED, Context())
    kinds = [type(step) for step in plan.command]
    (step,) = [step for step in plan.command if isinstance(step, st.Write)]
    assert (step.slot, step.text, step.text2, step.flags, step.blame) == (st.PROC, b"self/attr/exec", LABEL.encode(), st.OWN, "security.selinux")
    assert kinds.index(st.User) < kinds.index(st.Write) < kinds.index(st.Capabilities) < kinds.index(st.NoNewPrivs) < kinds.index(st.Exec)
    assert kinds.index(st.Write) < kinds.index(st.Seccomp), "a filter of one's own may forbid to write"


def test_without_selinux_it_is_refused_before_anything_is_made() -> None:
    with pytest.raises(UnsupportedError, match="not in force") as caught:
        compile(Spec(["true"], security=Security(selinux=LABEL)), Machine.example(), Context())
    assert caught.value.hint
