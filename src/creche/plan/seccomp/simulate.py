"""What a filter would answer, found by running its program as the kernel would."""

from __future__ import annotations

import struct

__all__ = ["run"]

WORD = 0xFFFFFFFF
_JUMPS = {0x15, 0x25, 0x35, 0x45}  # JEQ, JGT, JGE, JSET with a constant


def _holds(opcode: int, accumulator: int, value: int) -> bool:
    if opcode == 0x15:
        return accumulator == value
    if opcode == 0x25:
        return accumulator > value
    if opcode == 0x35:
        return accumulator >= value
    return bool(accumulator & value)


def run(program: bytes, number: int, arch: int, args: tuple[int, ...] = ()) -> int:
    """The number that a program returns for a call: SECCOMP_RET_* and its data.

    `arch` is an AUDIT_ARCH number; missing arguments are 0. Raises ValueError for a program that is none of ours.
    """
    words = (number & WORD, arch, 0, *(value & (1 << 64) - 1 for value in (*args, *(0,) * (6 - len(args)))))
    data = struct.pack("<IIQ6Q", *words)
    accumulator = at = 0
    while 0 <= at < len(program) // 8:
        opcode, yes, no, value = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        if opcode == 0x06:
            return int(value)
        if opcode == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif opcode == 0x54:
            accumulator &= value
        elif opcode == 0x05:
            at += value
        elif opcode in _JUMPS:
            at += yes if _holds(opcode, accumulator, value) else no
        else:
            raise ValueError(f"instruction {at - 1} has the opcode {opcode:#x}")
    raise ValueError("the program ends without an answer")
