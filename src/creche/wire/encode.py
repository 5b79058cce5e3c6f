"""Steps to the bytes that the interpreter reads: offsets and lengths, each bound checked once more."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ..errors import SpecError
from ..plan.steps import NONE, STEPS, Close, Step

__all__ = ["HEADER", "MAX_BLOB", "MAX_STEPS", "OPCODES", "RECORD", "encode", "encode_command", "encode_setup"]

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

    def __init__(self, start: int, known: dict[bytes, int]) -> None:
        self._end = start
        self._parts: list[bytes] = []
        self._known = known

    def add(self, text: bytes) -> int:
        at = self._known.get(text)
        if at is None:
            at = self._known[text] = self._end
            padded = text + b"\0" * (8 - len(text) % 8)
            self._parts.append(padded)
            self._end += len(padded)
        return at

    def bytes(self) -> bytes:
        return b"".join(self._parts)


def _records(steps: Sequence[Step], texts: _Texts) -> bytes:
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
    return b"".join(records)


def _blob(count: int, records: bytes, area: bytes) -> bytes:
    start = HEADER.size + len(records)
    size = start + len(area)
    if size > MAX_BLOB:
        raise SpecError(
            "command", f"{size} bytes", f"arguments, environment and files together may have {MAX_BLOB} bytes"
        )
    return HEADER.pack(MAGIC, ABI, size, count, start, 0) + records + area


def encode(steps: Sequence[Step]) -> bytes:
    """The bytes of these Steps. Raises SpecError where they are more than a Plan can hold."""
    if not OPCODES:
        _load()
    if len(steps) > MAX_STEPS:
        raise SpecError(
            "mounts", f"{len(steps)} steps", f"a Plan holds at most {MAX_STEPS}: give fewer mounts"
        )
    texts = _Texts(HEADER.size + len(steps) * RECORD.size, {})
    texts.add(b"")
    records = _records(steps, texts)
    return _blob(len(steps), records, texts.bytes())


_KEPT = 64
_SMALL = 16_384  # bytes
_wholes: dict[int, tuple[tuple[Step, ...], bytes]] = {}
_setups: dict[int, tuple[tuple[Step, ...], bytes]] = {}
_commands: dict[tuple[int, ...], tuple[tuple[Step, ...], bytes]] = {}


def encode_setup(steps: tuple[Step, ...]) -> bytes:
    """`encode`, once for each tuple: `compile` gives the same one for containers alike."""
    found = _setups.get(id(steps))
    if found is None:
        if len(_setups) >= _KEPT:
            del _setups[next(iter(_setups))]
        found = _setups[id(steps)] = steps, encode(steps)
    return found[1]


def encode_command(steps: tuple[Step, ...]) -> bytes:
    """`encode`, where all but the last Step were mostly encoded before: `compile` gives the same ones for commands alike.

    The last one's texts come behind theirs, of which it shares the empty one alone.
    """
    whole = _wholes.get(id(steps))
    if whole is not None:
        return whole[1]
    first, last = steps[:-1], steps[-1:]
    key = tuple(map(id, first))
    found = _commands.get(key)
    if found is None:
        if len(_commands) >= _KEPT:
            del _commands[next(iter(_commands))]
        # With one that has no text in the last one's place. The Steps are kept, so that their ids stay theirs.
        found = _commands[key] = first, encode((*first, Close()))
    start = HEADER.size + len(steps) * RECORD.size
    texts = _Texts(len(found[1]), {b"": start})
    record = _records(last, texts)
    blob = _blob(len(steps), found[1][HEADER.size : start - RECORD.size] + record, found[1][start:] + texts.bytes())
    if len(blob) <= _SMALL:  # for the next that is the very same; most are not, and some are large
        if len(_wholes) >= _KEPT:
            del _wholes[next(iter(_wholes))]
        _wholes[id(steps)] = steps, blob
    return blob
