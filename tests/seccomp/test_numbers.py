"""The tables of call numbers agree with the kernel's headers and with libseccomp."""

from __future__ import annotations

import re
import subprocess

import pytest
from seccomp import oracle

from creche.errors import UnsupportedError
from creche.plan.seccomp.arguments import INTS, is_int
from creche.plan.seccomp.numbers import ARCHES, audit_arch, elsewhere, name_of, numbers
from needs import needs

HEADERS = {
    "x86_64": ["-include", "asm/unistd_64.h"],
    # What arch/arm64/include/uapi/asm/unistd.h asks of the generic table.
    "aarch64": [
        "-D__ARCH_WANT_RENAMEAT",
        "-D__ARCH_WANT_NEW_STAT",
        "-D__ARCH_WANT_SET_GET_RLIMIT",
        "-D__ARCH_WANT_TIME32_SYSCALLS",
        "-D__ARCH_WANT_SYS_CLONE3",
        "-D__ARCH_WANT_MEMFD_SECRET",
        "-include",
        "asm-generic/unistd.h",
    ],
}


def _defined(arch: str) -> dict[str, int]:
    command = ["cc", "-E", "-dM", *HEADERS[arch], "-x", "c", "/dev/null"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    macros = dict(re.findall(r"^#define (__NR\w*) (\S+)$", text, re.MULTILINE))
    found = {}
    for macro, value in macros.items():
        while value in macros:
            value = macros[value]
        if macro.startswith("__NR_") and value.isdigit():
            found[macro.removeprefix("__NR_")] = int(value)
    found.pop("syscalls", None)  # how many there are
    found.pop("arch_specific_syscall", None)
    return found


@needs("cc", "x86_64")
@pytest.mark.parametrize("arch", ARCHES)
def test_the_kernel_s_headers_say_the_same(arch: str) -> None:
    """Every call of the headers is in the table under its number; the table may know newer ones."""
    defined, table = _defined(arch), numbers(arch)
    assert len(defined) > 300
    assert {name: table.get(name) for name in defined} == defined
    newest = max(defined.values())
    assert [name for name, number in table.items() if name not in defined and 336 < number <= newest] == []


@needs("libseccomp")
@pytest.mark.parametrize("arch", ARCHES)
def test_libseccomp_says_the_same(arch: str) -> None:
    """As far as it knows a call; those it does not know are newer than it is."""
    known = {name: oracle.resolve(name, arch) for name in numbers(arch)}
    assert {
        name: number for name, number in known.items() if number >= 0 and number != numbers(arch)[name]
    } == {}
    assert sum(number >= 0 for number in known.values()) > 300


@needs("libseccomp")
def test_names_of_other_processors_are_known_to_libseccomp() -> None:
    """A name that is passed over is a call somewhere (below -1: known, but not on this processor)."""
    invented = [name for name in elsewhere() if oracle.resolve(name, "x86_64") == -1]
    assert set(invented) <= {"atomic_barrier", "atomic_cmpxchg_32", "riscv_hwprobe"}
    assert oracle.resolve("flying_carpet", "x86_64") == -1


def test_a_number_has_one_name() -> None:
    """And the way back finds it."""
    for arch in ARCHES:
        assert all(name_of(number, arch) == name for name, number in numbers(arch).items())
        assert not elsewhere() & set(numbers(arch))


def test_every_int_belongs_to_a_known_call() -> None:
    """A slip in a name would silently leave 64 bits to compare."""
    known = set(numbers("x86_64")) | set(numbers("aarch64"))
    for word in INTS.split():
        name, positions = word.split(":")
        assert name in known and positions and set(positions) <= set("012345")
    assert is_int("ioctl", 1) and not is_int("ioctl", 2) and not is_int("mmap", 0)


def test_a_processor_without_a_table_is_an_error() -> None:
    """Never a filter for another one."""
    with pytest.raises(UnsupportedError, match="riscv64"):
        numbers("riscv64")
    with pytest.raises(UnsupportedError, match="riscv64"):
        audit_arch("riscv64")
