"""C and Python agree: the Steps and their order, the sizes of what travels between them, the bounds of a Plan."""

from __future__ import annotations

import re

import pytest
from house.house import NATIVE

from creche import _native
from creche.plan.seccomp.compiler import HANDOVER
from creche.plan.steps import NONE, STEPS
from creche.wire import control, encode

ffi, lib = _native.ffi, _native.lib


def c_steps() -> list[str]:
    return [ffi.string(lib.creche_op_name(number)).decode() for number in range(lib.creche_op_count())]


def test_the_list_in_the_header_is_the_list_in_the_library() -> None:
    """The built module is that of these sources."""
    text = (NATIVE / "abi.h").read_text()
    macro = re.search(r"#define CRECHE_STEPS\(X\)((?:.*\\\n)*.*\n)", text)
    assert macro
    assert re.findall(r"X\((\w+)\)", macro[1]) == c_steps()


def test_every_step_of_c_is_a_class_in_python_and_there_is_none_more() -> None:
    assert set(c_steps()) == set(STEPS)


def test_a_number_beyond_the_list_has_no_name() -> None:
    assert ffi.string(lib.creche_op_name(lib.creche_op_count())) == b""


@pytest.mark.parametrize(("struct", "codec"), [("creche_header", "HEADER"), ("creche_step", "RECORD")])
def test_a_record_is_as_long_there_as_here(struct: str, codec: str) -> None:
    assert ffi.sizeof(f"struct {struct}") == getattr(encode, codec).size


@pytest.mark.parametrize("name", ["MAGIC", "ABI", "SLOTS", "MAX_BLOB", "MAX_STEPS"])
def test_a_bound_is_the_same_there_and_here(name: str) -> None:
    assert getattr(lib, f"CRECHE_{name}") == getattr(encode, name)


def test_no_slot_is_the_same_number() -> None:
    assert lib.CRECHE_SLOT_NONE == NONE


@pytest.mark.parametrize("name", ["OPEN", "MKDIR", "UNLINK", "RMDIR", "SYMLINK", "MODE", "OWNER", "LAYER", "XATTR"])
def test_what_the_init_may_be_asked_of_files_is_the_same_there_and_here(name: str) -> None:
    assert getattr(lib, f"CRECHE_FILE_{name}") == getattr(control, f"FILE_{name}")


@pytest.mark.parametrize("name", ["MAIN", "PTY", "LISTENER"])
def test_how_a_command_is_to_be_run_is_the_same_there_and_here(name: str) -> None:
    assert getattr(lib, f"CRECHE_RUN_{name}") == getattr(control, f"RUN_{name}")


def test_the_mark_of_a_listener_that_is_handed_over_is_the_same_there_and_here() -> None:
    assert {compare.argument: compare.value for compare in HANDOVER} == {4: lib.CRECHE_HANDOVER_4, 5: lib.CRECHE_HANDOVER_5}
