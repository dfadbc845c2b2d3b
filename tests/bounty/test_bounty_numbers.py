"""Reading and writing a bounty's short number."""

from uuid import uuid4

import pytest

from bounty.bounty_numbers import read_name, written


@pytest.mark.parametrize("text", ["B12", "b12"])
def test_a_number_is_read_in_either_case(text: str) -> None:
    assert read_name(text) == 12


def test_what_is_written_is_read_back() -> None:
    assert read_name(written(7)) == 7


def test_an_id_is_read_as_an_id() -> None:
    key = uuid4()
    assert read_name(str(key)) == key


@pytest.mark.parametrize(
    "text", ["", "12", "#12", "B", "B0", "B012", "B-1", "B1.0", "B12\n", "B\u0661\u0662", "B" + 30 * "9"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_name(text)
