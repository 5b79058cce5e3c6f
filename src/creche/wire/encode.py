"""Steps to the bytes that the interpreter reads: offsets and lengths, each bound checked once more."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ..errors import SpecError
from ..plan.steps import NONE, STEPS, Step

__all__ = ["HEADER", "MAX_BLOB", "MAX_STEPS", "OPCODES", "RECORD", "encode", "encode_known"]

MAGIC, ABI = 0x63726331, 1
SLOTS = 1024
MAX_BLOB = 16 << 20
MAX_STEPS = 8192
HEADER = struct.Struct("=6I")
RECORD = struct.Struct("=4H8I2Q")

#: Opcode numbers, in the order of native/abi.h: what the native module says, held against STEPS by a test.
OPCODES: dict[str, int] = {}


def _load() -> None:
    from .._native import ffi, lib

    for number in range(lib.creche_op_count()):
        OPCODES[ffi.string(lib.creche_op_name(number)).decode()] = number
    missing = STEPS.keys() ^ OPCODES.keys()
    if missing:
        raise ImportError(
            f"creche._native was built from other sources: it disagrees about {', '.join(sorted(missing))}"
        )


class _Texts:
    """The text area: each text once, NUL-ended, at an offset that is a multiple of eight."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._size = 0
        self._parts: list[bytes] = []
        self._known: dict[bytes, int] = {}

    def add(self, text: bytes) -> int:
        at = self._known.get(text)
        if at is None:
            at = self._known[text] = self._start + self._size
            padded = text + b"\0" * (8 - len(text) % 8)
            self._parts.append(padded)
            self._size += len(padded)
        return at

    def bytes(self) -> bytes:
        return b"".join(self._parts)


def encode(steps: Sequence[Step]) -> bytes:
    """The bytes of these Steps. Raises SpecError where they are more than a Plan can hold."""
    if not OPCODES:
        _load()
    if len(steps) > MAX_STEPS:
        raise SpecError(
            "mounts", f"{len(steps)} steps", f"a Plan holds at most {MAX_STEPS}: give fewer mounts"
        )
    start = HEADER.size + len(steps) * RECORD.size
    texts = _Texts(start)
    texts.add(b"")
    records = []
    add, pack = texts.add, RECORD.pack
    for step in steps:
        if not (step.slot == NONE or 0 <= step.slot < SLOTS) or not (
            step.slot2 == NONE or 0 <= step.slot2 < SLOTS
        ):
            raise SpecError(
                step.blame or "mounts",
                step.slot,
                f"a Plan holds at most {SLOTS} descriptors: give fewer layers or mounts",
            )
        text, text2, text3 = step.text, step.text2, step.text3
        records.append(
            pack(
                OPCODES[step.op], step.slot, step.slot2, 0, step.flags, add(text), len(text), add(text2), len(text2),
                add(text3), len(text3), 0, step.a & 0xFFFF_FFFF_FFFF_FFFF, step.b & 0xFFFF_FFFF_FFFF_FFFF,
            )
        )  # fmt: skip
    area = texts.bytes()
    size = start + len(area)
    if size > MAX_BLOB:
        raise SpecError(
            "command", f"{size} bytes", f"arguments, environment and files together may have {MAX_BLOB} bytes"
        )
    return HEADER.pack(MAGIC, ABI, size, len(steps), start, 0) + b"".join(records) + area


_known: dict[int, tuple[tuple[Step, ...], bytes]] = {}


def encode_known(steps: tuple[Step, ...]) -> bytes:
    """`encode`, once for each tuple: for the setup, which `compile` gives again for containers alike."""
    found = _known.get(id(steps))
    if found is None:
        if len(_known) >= 64:
            del _known[next(iter(_known))]
        found = _known[id(steps)] = steps, encode(steps)
    return found[1]
