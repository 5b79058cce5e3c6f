"""libseccomp, as the second opinion on what a filter should answer: its rules in, its program out."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from creche.plan.seccomp.rules import Action, Compare, Kind, Op, Rule

KILL_PROCESS, ALLOW = 0x80000000, 0x7FFF0000
ACT_BADARCH = 2  # SCMP_FLTATR_ACT_BADARCH

TOKENS = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
OPS = {Op.NE: 1, Op.LT: 2, Op.LE: 3, Op.EQ: 4, Op.GE: 5, Op.GT: 6}
MASKED_EQ = 7


class _Comparison(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def load() -> ctypes.CDLL:
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_arch_remove.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_rule_add_exact_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    ]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    return library


def resolve(name: str, arch: str) -> int:
    """The number of a call, negative where the processor has none: -1 for an unknown name."""
    found: int = load().seccomp_syscall_resolve_name_arch(TOKENS[arch], name.encode())
    return found


def _code(action: Action) -> int:
    return KILL_PROCESS if action.kind is Kind.KILL_PROCESS else action.code


def _comparison(compare: Compare, wide: int) -> _Comparison:
    if compare.mask != wide:
        assert compare.op is Op.EQ, "libseccomp masks for equality alone"
        return _Comparison(compare.argument, MASKED_EQ, compare.mask, compare.value)
    return _Comparison(compare.argument, OPS[compare.op], compare.value, 0)


def program(rules: Iterable[Rule], otherwise: Action, arch: str, numbers: dict[str, int]) -> bytes:
    """The program that libseccomp makes of rules that it takes: one action for each call, other than the default."""
    library = load()
    context = library.seccomp_init(_code(otherwise))
    assert context
    try:
        if arch != "x86_64":
            _must(library.seccomp_arch_add(context, TOKENS[arch]), f"arch {arch}")
            _must(library.seccomp_arch_remove(context, TOKENS["x86_64"]), "arch x86_64")
        _must(library.seccomp_attr_set(context, ACT_BADARCH, KILL_PROCESS), "ACT_BADARCH")
        for rule in rules:
            given = [_comparison(compare, (1 << 64) - 1) for compare in rule.when]
            array = (_Comparison * max(1, len(given)))(*given)
            for name in rule.names:
                done = library.seccomp_rule_add_exact_array(
                    context, _code(rule.action), numbers[name], len(given), array
                )
                _must(done, f"{name}: {rule}")
        handle = os.memfd_create("filter")
        try:
            _must(library.seccomp_export_bpf(context, handle), "export")
            os.lseek(handle, 0, os.SEEK_SET)
            return os.read(handle, 1 << 20)
        finally:
            os.close(handle)
    finally:
        library.seccomp_release(context)


def _must(result: int, what: str) -> None:
    if result < 0:
        raise OSError(-result, f"libseccomp refused {what}")
