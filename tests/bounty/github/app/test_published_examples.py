"""GitHub's published example payloads are read as facts. Long: they come from npm."""

import json
from typing import Any

import pytest

from bounty.github.app import reading
from bounty.github.events import parsing
from tests.bounty.github.standin.octokit import EXAMPLES, unpacked

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    folder = unpacked(EXAMPLES, tmp_path_factory.mktemp("examples"))
    listed = json.loads((folder / "api.github.com" / "index.json").read_text())
    return {entry["name"]: entry["examples"] for entry in listed}


def test_pull_requests_are_read(examples: dict[str, list[dict[str, Any]]]) -> None:
    read = [(payload, parsing.pull_request_facts(payload)) for payload in examples["pull_request"]]
    assert len(read) > 20
    for payload, facts in read:
        shown = payload["pull_request"]
        assert facts.number == payload["number"] == shown["number"]
        assert facts.repository_id == payload["repository"]["id"]
        assert facts.head_sha == shown["head"]["sha"]
        assert facts.author.github_id == shown["user"]["id"]
        assert facts.updated_at.tzinfo is not None
        assert bool(facts.merge_sha) == facts.is_merged == shown["merged"]


def test_comments_are_read(examples: dict[str, list[dict[str, Any]]]) -> None:
    read = [(payload, parsing.comment_facts(payload)) for payload in examples["issue_comment"]]
    assert len(read) > 5
    for payload, facts in read:
        is_of_pull = "pull_request" in payload["issue"]
        assert (facts is not None) == is_of_pull
        plain = reading.comment_facts(payload["comment"], repository_id=1, number=payload["issue"]["number"])
        assert plain.comment_id == payload["comment"]["id"]
        assert plain.body == payload["comment"]["body"]
        assert plain.author.login == payload["comment"]["user"]["login"]


def test_reviews_are_read(examples: dict[str, list[dict[str, Any]]]) -> None:
    for payload in examples["pull_request_review"]:
        facts = reading.review_facts(
            payload["review"], repository_id=1, number=payload["pull_request"]["number"]
        )
        assert facts is not None
        assert facts.commit_sha == payload["review"]["commit_id"]
        assert facts.state in ("approved", "changes_requested", "commented", "dismissed")


def test_pushes_and_queues_are_read(examples: dict[str, list[dict[str, Any]]]) -> None:
    for payload in examples["push"]:
        facts = parsing.push_facts(payload)
        if payload["ref"].startswith("refs/heads/"):
            assert facts is not None
            assert facts.repository_id == payload["repository"]["id"]
            assert bool(facts.commit) != payload["deleted"]
        else:
            assert facts is None
    queued = [parsing.queue_facts(payload) for payload in examples["merge_group"]]
    assert len(queued) >= 1
    for payload, group in zip(examples["merge_group"], queued, strict=True):
        assert group is None or group.head_sha == payload["merge_group"]["head_sha"]
