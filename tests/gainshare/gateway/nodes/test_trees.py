"""Trees that answer: pins in a model's name, fingerprints, and which node takes which request."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from django.utils import timezone

from gainshare.capacity.lengths import Lengths
from gainshare.capacity.routing.shared_view import Serving
from gainshare.gateway.errors import UnknownTree
from gainshare.gateway.lengths import recent_lengths
from gainshare.gateway.metering import Metered
from gainshare.gateway.models import RequestStatus, UsageRecord
from gainshare.gateway.nodes import ModelNode
from gainshare.gateway.nodes.sharing import pool_and_sharing
from gainshare.gateway.requests import Endpoint, read_request
from gainshare.gateway.trees import is_wanted, model_and_tree, system_fingerprint
from tests.gainshare.gateway.charged_world import PROMPT as PROMPT_TOKENS
from tests.gainshare.gateway.charged_world import Charged
from tests.gainshare.gateway.nodes.misbehaving import MODEL, Gateway, StandIn, texts

NEW, OLD = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tiny", ("tiny", "")),
        ("tiny@aaaaaaaa", ("tiny", "aaaaaaaa")),
        (f"tiny@{OLD}", ("tiny", OLD)),
        ("tiny@aaaaaaa", ("tiny@aaaaaaa", "")),  # too short to name a tree: a model's own name
        (f"tiny@{OLD}b", (f"tiny@{OLD}b", "")),
        ("tiny@AAAAAAAA", ("tiny@AAAAAAAA", "")),
        ("@cf/tiny", ("@cf/tiny", "")),
        ("@aaaaaaaa", ("@aaaaaaaa", "")),
        ("a@bbbbbbbb@aaaaaaaa", ("a@bbbbbbbb", "aaaaaaaa")),
    ],
)
def test_a_name_may_pin_a_tree(name: str, expected: tuple[str, str]) -> None:
    assert model_and_tree(name) == expected
    body = {"model": name, "messages": [{"role": "user", "content": "Hi"}]}
    request = read_request(json.dumps(body).encode(), Endpoint.CHAT)
    assert (request.model, request.tree) == expected
    assert request.node_body(1)["model"] == expected[0]


def test_a_fingerprint_tells_trees_apart_and_is_absent_where_none_is_known() -> None:
    assert system_fingerprint(NEW) == "fp_aaaaaaaaaaaa" != system_fingerprint(OLD)
    assert system_fingerprint("") is None


@pytest.mark.parametrize(
    ("tree", "is_former", "wanted", "expected"),
    [
        (NEW, False, "", True),
        ("", False, "", True),
        (OLD, True, "", False),
        (OLD, True, "bbbbbbbb", True),
        (NEW, False, "aaaaaaaa", True),
        (NEW, False, "bbbbbbbb", False),
        ("", False, "aaaaaaaa", False),  # its code is not known: it cannot promise a tree
    ],
)
def test_a_former_tree_answers_only_who_names_it(
    tree: str, is_former: bool, wanted: str, expected: bool
) -> None:
    assert is_wanted(tree, is_former=is_former, wanted=wanted) is expected
    facts = replace(Serving("a", 4), tree=tree, is_former=is_former)
    node = ModelNode("http://node", facts=facts, models={"tiny": {}})
    assert node.serves("tiny", wanted) is expected
    assert not node.serves("other", wanted)
    node.is_draining = True
    assert not node.serves("tiny", wanted)


async def knows_trees(nodes: tuple[StandIn, StandIn]) -> None:
    """The first node has the tree in use, the second one the tree before."""
    pool, sharing = pool_and_sharing()
    await sharing.fresh()
    for node, stand_in in ((pool.nodes[0], nodes[0]), (pool.nodes[1], nodes[1])):
        assert node.url == stand_in.url
    pool.nodes[0].facts = replace(pool.nodes[0].facts, tree=NEW)
    pool.nodes[1].facts = replace(pool.nodes[1].facts, tree=OLD, is_former=True)


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
async def test_bill_and_fingerprint_name_the_tree_that_answered(
    customer: Gateway, nodes: tuple[StandIn, StandIn]
) -> None:
    await knows_trees(nodes)
    answer = await customer.ask()
    assert answer.status_code == 200, answer.text
    assert (answer.json()["model"], answer.json()["system_fingerprint"]) == (MODEL, "fp_aaaaaaaaaaaa")
    assert (await customer.record(tree=NEW)).node == nodes[0].url
    pinned = await customer.ask(model=f"{MODEL}@bbbbbbbb", stream=True)
    assert {piece["system_fingerprint"] for piece in texts(pinned)} == {"fp_bbbbbbbbbbbb"}
    record = await customer.record(tree=OLD)
    assert (record.model, record.node) == (MODEL, nodes[1].url)
    assert (nodes[0].n_asked, nodes[1].n_asked) == (1, 1)
    (listed,) = await customer.models()
    assert (listed["id"], listed["tree"], listed["system_fingerprint"]) == (MODEL, NEW, "fp_aaaaaaaaaaaa")


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
async def test_a_pinned_tree_is_never_answered_by_another_one(
    customer: Gateway, nodes: tuple[StandIn, StandIn]
) -> None:
    """Neither a tree that no node has, nor one whose only node fails, falls back to the tree in use."""
    await knows_trees(nodes)
    unknown = await customer.ask(model=f"{MODEL}@cccccccc")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert "aaaaaaaaaaaa" in unknown.json()["error"]["message"]
    nodes[1].answer = nodes[1].refuses(503)
    failed = await customer.ask(model=f"{MODEL}@bbbbbbbb")
    assert failed.status_code == 503
    assert nodes[0].n_asked == 0
    nodes[0].answer = nodes[0].refuses(503)
    assert (await customer.ask()).status_code == 503
    assert nodes[1].n_asked >= 1  # by the pinned request alone: the former tree stands in for no one
    assert all(body["model"] == MODEL for body in nodes[1].bodies)


async def test_a_tree_that_no_node_has_is_an_error_that_lists_those_there(
    nodes: tuple[StandIn, StandIn],
) -> None:
    await_pool, _ = pool_and_sharing()
    await await_pool.models()
    await_pool.nodes[0].facts = replace(await_pool.nodes[0].facts, tree=NEW)
    with pytest.raises(UnknownTree, match=f"{MODEL}@aaaaaaaaaaaa"):
        await await_pool.serving(MODEL, "cccccccc")


@pytest.mark.django_db
def test_lengths_are_those_of_complete_answers_of_the_last_days() -> None:
    charged = Charged()
    price = charged.price()
    charged.settled(price, Metered(PROMPT_TOKENS, 2, 3))
    charged.settled(price, Metered(PROMPT_TOKENS, 0, 4), status=RequestStatus.FAILED)
    charged.settled(price, Metered(PROMPT_TOKENS, 0, 0))
    old = charged.settled(price, Metered(PROMPT_TOKENS, 0, 5))
    UsageRecord.objects.filter(pk=old.pk).update(created_at=timezone.now() - timedelta(days=8))
    assert recent_lengths("tiny", 9) == [Lengths(charged.ann.pk, PROMPT_TOKENS, 2, 3)]
    assert recent_lengths("other", 9) == []
