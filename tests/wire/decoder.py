"""A reader of a Plan's bytes, written from native/abi.h alone: the codec's other half, for tests."""

from __future__ import annotations

import struct

from creche import _native
from creche.plan.steps import STEPS, Step

HEADER, RECORD = "=6I", "=4H8I2Q"


def decoded(blob: bytes) -> list[Step]:
    """The Steps in a Plan, without the fields that they blame, which do not travel."""
    magic, abi, size, count, text, _ = struct.unpack_from(HEADER, blob)
    assert (magic, abi, size) == (0x63726331, 1, len(blob))
    assert text == struct.calcsize(HEADER) + count * struct.calcsize(RECORD)
    steps = []
    for index in range(count):
        op, slot, slot2, _, flags, *texts, _, a, b = struct.unpack_from(RECORD, blob, struct.calcsize(HEADER) + index * struct.calcsize(RECORD))
        parts = []
        for at, length in zip(texts[::2], texts[1::2], strict=True):
            assert text <= at and blob[at + length] == 0
            parts.append(blob[at : at + length])
        name = _native.ffi.string(_native.lib.creche_op_name(op)).decode()
        steps.append(STEPS[name](slot=slot, slot2=slot2, flags=flags, text=parts[0], text2=parts[1], text3=parts[2], a=a, b=b))
    return steps
