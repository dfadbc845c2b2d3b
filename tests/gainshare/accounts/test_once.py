"""Calls with an id take effect once, and ids of other users are refused."""

from uuid import uuid4

import pytest

from gainshare.accounts.errors import DomainError, IdConflict
from gainshare.accounts.models import MadeOnce
from gainshare.accounts.once import once
from tests.gainshare.ledger.ledger_world import make_user

pytestmark = pytest.mark.django_db


def test_a_repeated_call_answers_what_the_first_one_made() -> None:
    user, call_id, made = make_user(), uuid4(), iter("ab")
    answers = [
        once(call_id=call_id, user=user, what="thing", terms=terms, make=lambda: next(made))
        for terms in ({"x": 1, "y": "2"}, {"y": "2", "x": 1})
    ]
    assert answers == ["a", "a"] and next(made) == "b"


@pytest.mark.parametrize("change", ["user", "what", "terms"])
def test_an_id_that_was_used_for_something_else_is_refused(change: str) -> None:
    first = {"user": make_user(), "what": "thing", "terms": {"x": 1}}
    others = {"user": make_user(), "what": "other", "terms": {"x": 2}}
    call_id = uuid4()
    once(call_id=call_id, make=lambda: "a", **first)  # type: ignore[arg-type]  # a dict of keywords
    with pytest.raises(IdConflict):
        once(call_id=call_id, make=lambda: "b", **{**first, change: others[change]})  # type: ignore[arg-type]
    assert MadeOnce.objects.get().name == "a"


def test_what_was_refused_leaves_its_id_free() -> None:
    user, call_id = make_user(), uuid4()

    def refuse() -> str:
        raise DomainError("no")

    with pytest.raises(DomainError, match="no"):
        once(call_id=call_id, user=user, what="thing", terms={}, make=refuse)
    assert once(call_id=call_id, user=user, what="thing", terms={}, make=lambda: "a") == "a"


def test_without_an_id_each_call_makes_something() -> None:
    user, made = make_user(), iter("ab")
    assert [
        once(call_id=None, user=user, what="thing", terms={}, make=lambda: next(made)) for _ in range(2)
    ] == ["a", "b"]
    assert not MadeOnce.objects.exists()
