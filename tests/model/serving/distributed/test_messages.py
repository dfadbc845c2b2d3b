"""Steps arrive at the other ranks as they were sent, whatever their size, and broken ones are refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.serving.distributed.messages import FIRST_INTS, Channel, Command, decode_parts, encode_parts
from model.serving.distributed.shard import Degrees, Groups
from model.serving.executors.base import Part
from tests.model.parallel.gloo_threads import on_ranks

ids = st.integers(0, 2**31 - 1)
parts = st.builds(Part, st.lists(ids, max_size=5), ids, st.lists(ids, max_size=5), st.integers(0, 5))


@settings(deadline=None, max_examples=60)
@given(st.lists(parts, max_size=6))
def test_parts_are_read_back(sent: list[Part]) -> None:
    assert decode_parts(encode_parts(sent)) == sent


@settings(deadline=None, max_examples=60)
@given(st.lists(parts, min_size=1, max_size=4), st.integers(min_value=1))
def test_parts_that_are_cut_off_are_refused(sent: list[Part], n_missing: int) -> None:
    integers = encode_parts(sent)
    last = 4 + len(sent[-1].tokens) + len(sent[-1].blocks)
    with pytest.raises(ValueError, match=r"cut off|no part"):
        decode_parts(integers[: len(integers) - 1 - (n_missing % (last - 1))])


def test_messages_of_every_size_come_in_the_order_in_which_they_were_sent() -> None:
    """An empty one, one that just fits the first tensor, one integer more, and many."""
    sizes = (0, 3, FIRST_INTS - 2, FIRST_INTS - 1, 5 * FIRST_INTS)
    sent = [(Command.STEP, list(range(size, 2 * size))) for size in sizes]
    sent += [(Command.COPY_BLOCK, [7, 2**31 - 1]), (Command.STOP, [])]

    def talk(rank: int, groups: Groups) -> list[tuple[Command, list[int]]]:
        channel = Channel(groups.world)
        if rank == 0:
            for command, integers in sent:
                channel.send(command, integers)
            return sent
        return [channel.receive() for _ in sent]

    for received in on_ranks(Degrees(tensor=3), talk):
        assert received == sent


def test_integers_that_do_not_fit_are_an_error_and_not_sent() -> None:
    with pytest.raises(RuntimeError, match="overflow"):
        Channel(None).send(Command.COPY_BLOCK, [2**31, 0])
