"""Plans as bytes: whole, within bounds, and refused by C where a single byte is wrong that it can know of."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hy
from plan.examples import EXAMPLES, plan
from wire.decoder import HEADER, RECORD, decoded

from creche import _native
from creche.errors import SpecError
from creche.plan import steps as st
from creche.wire import encode as codec
from creche.wire.encode import encode, encode_command, encode_setup
from needs import needs

pytestmark = needs("native")
EINVAL = -22


def c_says(blob: bytes, size: int | None = None) -> int:
    return int(_native.lib.creche_check(blob, len(blob) if size is None else size))


steps = hy.builds(
    lambda cls, **fields: cls(**fields),
    hy.sampled_from(list(st.STEPS.values())),
    slot=hy.just(st.NONE) | hy.integers(0, 1023),
    slot2=hy.just(st.NONE) | hy.integers(0, 1023),
    flags=hy.integers(0, 2**32 - 1),
    text=hy.binary(max_size=40),
    text2=hy.binary(max_size=40),
    text3=hy.binary(max_size=40),
    a=hy.integers(0, 2**64 - 1),
    b=hy.integers(0, 2**64 - 1),
)


@given(hy.lists(steps, max_size=20))
@settings(deadline=None)
def test_what_is_encoded_is_decoded_and_c_takes_it(given_steps: list[st.Step]) -> None:
    blob = encode(given_steps)
    assert decoded(blob) == given_steps
    assert c_says(blob) == 0
    assert len(blob) % 8 == 0


def test_negative_numbers_travel_as_two_s_complement() -> None:
    assert decoded(encode([st.Nice(a=-5)]))[0].a == 2**64 - 5


def test_a_text_is_there_once() -> None:
    many = encode([st.Hostname(text="x" * 1000)] * 50)
    assert len(many) < 50 * struct.calcsize(RECORD) + 2000


def test_known_plans_are_encoded_once_and_alike() -> None:
    setup = plan(*EXAMPLES["true-user"]).setup
    assert encode_setup(setup) is encode_setup(setup) and encode_setup(setup) == encode(setup)


@given(hy.lists(steps, min_size=1, max_size=20), steps)
@settings(deadline=None)
def test_a_command_is_encoded_as_any_plan_and_so_is_another_that_differs_in_its_last_step(first: list[st.Step], other: st.Step) -> None:
    for given_steps in (tuple(first), (*first[:-1], other)):
        blob = encode_command(given_steps)
        assert decoded(blob) == list(given_steps)
        assert c_says(blob) == 0


@pytest.mark.parametrize(
    ("given_steps", "field"),
    [
        ([st.Close(slot=0)] * (codec.MAX_STEPS + 1), "mounts"),
        ([st.Close(slot=1024, blame="mounts[7]")], "mounts[7]"),
        ([st.Close(slot=-1)], "mounts"),
        ([st.LinkTree(slot=1, slot2=1024)], "mounts"),
        ([st.MakeFile(text2=b"x" * codec.MAX_BLOB)], "command"),
    ],
)
def test_more_than_a_plan_can_hold_is_a_spec_error(given_steps: list[st.Step], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        encode(given_steps)
    assert caught.value.field == field


def test_as_much_as_a_plan_can_hold() -> None:
    assert c_says(encode([st.Close(slot=1023)] * codec.MAX_STEPS)) == 0
    assert c_says(encode([st.MakeFile(text2=b"x" * (codec.MAX_BLOB - 200))])) == 0


BLOB = encode(plan(*EXAMPLES["directory-and-mounts"]).setup)


def test_what_is_too_short_or_too_long_is_refused() -> None:
    for size in [0, 1, 23, 24, 25, 71, 72, *range(100, len(BLOB), 97), len(BLOB) - 1]:
        assert c_says(BLOB[:size]) == EINVAL
    assert c_says(BLOB + bytes(8)) == EINVAL


@pytest.mark.parametrize("field", range(6))
@pytest.mark.parametrize("value", [0, 1, 23, 24, 2**31, 2**32 - 1, 2**32 - 24])
def test_a_header_that_lies_is_refused(field: int, value: int) -> None:
    numbers = list(struct.unpack_from(HEADER, BLOB))
    if numbers[field] == value or field == 5:
        return  # what is reserved is not looked at
    numbers[field] = value
    assert c_says(struct.pack(HEADER, *numbers) + BLOB[struct.calcsize(HEADER) :]) == EINVAL


@pytest.mark.parametrize(("index", "value"), [(0, 999), (1, 1024), (1, 0xFFFE), (2, 5000)])
def test_an_opcode_or_slot_that_there_is_not_is_refused(index: int, value: int) -> None:
    numbers = list(struct.unpack_from(RECORD, BLOB, 24))
    numbers[index] = value
    assert c_says(BLOB[:24] + struct.pack(RECORD, *numbers) + BLOB[24 + struct.calcsize(RECORD) :]) == EINVAL


@pytest.mark.parametrize("which", [5, 7, 9])
@pytest.mark.parametrize("value", [0, 8, 24, len(BLOB), len(BLOB) + 8, 2**31, 2**32 - 1])
def test_a_text_outside_is_refused(which: int, value: int) -> None:
    for index in (which, which + 1):
        numbers = list(struct.unpack_from(RECORD, BLOB, 24))
        if index == which + 1 and value in (0, 8, 24):
            continue  # a size that may be a text's
        numbers[index] = value
        assert c_says(BLOB[:24] + struct.pack(RECORD, *numbers) + BLOB[24 + struct.calcsize(RECORD) :]) == EINVAL


@pytest.mark.parametrize("seed", range(4))
def test_random_and_mutated_bytes_are_refused_or_read_as_they_are(seed: int) -> None:
    """No crash, and what C takes the decoder here can read too: they agree about what is whole."""
    random_ = random.Random(seed)
    taken = 0
    for _ in range(2000):
        if random_.random() < 0.2:
            blob = random_.randbytes(random_.randrange(400))
        else:
            copy = bytearray(BLOB)
            for _ in range(random_.randrange(1, 4)):
                copy[random_.randrange(min(len(copy), random_.choice([24, 200, len(copy)])))] = random_.randrange(256)
            blob = bytes(copy)
        if c_says(blob) == 0:
            taken += 1
            decoded(blob)
    assert taken  # a changed byte of a text is nobody's business
