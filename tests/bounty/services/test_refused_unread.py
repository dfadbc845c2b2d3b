"""A submission that is refused anyway is refused before its diff is read, and leaves nothing behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from bounty.errors import AlreadySubmitted
from bounty.models import Bounty, StoredTree, Submission
from bounty.services import submissions, trees
from bounty.services.bounties import close_bounty
from bounty.services.trees import blob_store
from gainshare.accounts.models import User
from gainshare.accounts.rate_limits import TooManyAttempts
from gainshare.accounts.services import create_api_key
from tests.bounty.bounty_world import World, diff_of_line, small_tree

REQUESTS = 60
MEBIBYTE = 1024 * 1024


def stored(root: Path) -> set[str]:
    """Every file below the blob store, finished or not."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def large(number: int, size: int = MEBIBYTE) -> str:
    """A diff of exactly `size` bytes that parses and applies; each number another one."""
    empty = diff_of_line(3, f"# {number} ")
    return diff_of_line(3, f"# {number} " + "x" * (size - len(empty)))


def acceptable(number: int) -> str:
    return diff_of_line(3, f"step_3 = {number + 100}")


class Reads:
    """Counts how often a diff is parsed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, real = 0, submissions.parse_patch

        def counted(text: Any) -> Any:
            self.count += 1
            return real(text)

        monkeypatch.setattr(submissions, "parse_patch", counted)
        monkeypatch.setattr(trees, "parse_patch", counted)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def client_of(user: User | None) -> APIClient:
    client = APIClient()
    if user is not None:
        client.force_authenticate(user)
    return client


def send(client: APIClient, bounty: Bounty, diff: str, **more: str) -> int:
    body = {"bounty": str(bounty.pk), "diff": diff, **more}
    return int(client.post("/api/v1/submissions/", body, format="json").status_code)


def a_stranger(world: World) -> tuple[APIClient, dict[str, str]]:
    return client_of(None), {}


def with_key(user: User, scope: str) -> APIClient:
    _, raw = create_api_key(user=user, name=scope, scopes=[scope])
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {raw}")
    return client


def a_switched_off_account(world: World) -> tuple[APIClient, dict[str, str]]:
    client = with_key(world.ann, "submit")
    world.ann.is_active = False
    world.ann.save()
    return client, {}


def a_key_for_other_things(world: World) -> tuple[APIClient, dict[str, str]]:
    return with_key(world.ann, "inference"), {}


def a_closed_bounty(world: World) -> tuple[APIClient, dict[str, str]]:
    close_bounty(bounty_id=world.bounty.pk, reason="enough", actor=world.mira)
    return client_of(world.ann), {}


def another_base(world: World) -> tuple[APIClient, dict[str, str]]:
    other = small_tree((*world.modules, "model.other"))
    return client_of(world.ann), {"base_tree": other.pk}


def no_attempt_left(world: World) -> tuple[APIClient, dict[str, str]]:
    Bounty.objects.filter(pk=world.bounty.pk).update(max_attempts=1)
    world.submit(world.ann, acceptable(-1))
    return client_of(world.ann), {}


def no_rejection_left(world: World) -> tuple[APIClient, dict[str, str]]:
    for number in range(10):
        world.submit(world.ann, f"this is no diff, number {number}")
    return client_of(world.ann), {}


WAYS: list[tuple[Callable[[World], tuple[APIClient, dict[str, str]]], int]] = [
    (a_stranger, 401),
    (a_switched_off_account, 401),
    (a_key_for_other_things, 403),
    (a_closed_bounty, 409),
    (another_base, 409),
    (no_attempt_left, 429),
    (no_rejection_left, 429),
]


@pytest.mark.parametrize(("way", "status"), WAYS, ids=[way.__name__ for way, _ in WAYS])
@pytest.mark.parametrize("make", [large, acceptable])
def test_a_refused_submission_is_not_read(
    world: World,
    blob_root: Path,
    reads: Reads,
    way: Callable[[World], tuple[APIClient, dict[str, str]]],
    status: int,
    make: Callable[[int], str],
) -> None:
    client, more = way(world)
    before, rows, reads.count = stored(blob_root), Submission.objects.count(), 0
    for number in range(3):
        assert send(client, world.bounty, make(number), **more) == status
    assert reads.count == 0
    assert stored(blob_root) == before
    assert Submission.objects.count() == rows


def test_sixty_requests_of_a_mebibyte_leave_no_blob_and_are_not_parsed(
    world: World, blob_root: Path, reads: Reads
) -> None:
    """The first ten are kept as rejected, without their text, which is longer than the policy allows."""
    client, before, reads.count = client_of(world.ann), stored(blob_root), 0
    answers = [send(client, world.bounty, large(number)) for number in range(REQUESTS)]
    assert answers == [201] * 10 + [429] * (REQUESTS - 10)
    assert reads.count == 0
    assert stored(blob_root) == before
    assert Submission.objects.count() == 10
    assert StoredTree.objects.count() == 1


def test_sixty_diffs_that_do_not_apply_are_parsed_ten_times(
    world: World, blob_root: Path, reads: Reads
) -> None:
    size = 200_000
    client, before, reads.count = client_of(world.ann), stored(blob_root), 0
    for number in range(REQUESTS):
        diff = large(number, size).replace("-step_3 = 3\n", "-step_3 = 4\n")
        send(client, world.bounty, diff)
    assert reads.count == 10
    assert len(stored(blob_root) - before) == 10  # the kept diffs, and no file of a tree


def test_what_was_measured_already_is_read_ten_times_an_hour_and_stores_nothing(
    world: World, blob_root: Path, reads: Reads
) -> None:
    """The same change in another form: to know it, the platform has to read it."""
    world.submit(world.ann, acceptable(1))
    client, before, reads.count = client_of(world.ann), stored(blob_root), 0
    for number in range(REQUESTS):
        again = acceptable(1).replace("@@\n", f"@@ form {number}\n")
        assert send(client, world.bounty, again) in (409, 429)
    assert reads.count == 10
    assert stored(blob_root) == before


@pytest.mark.parametrize("has_id", [True, False])
def test_the_page_counts_what_was_read_in_vain(
    world: World, blob_root: Path, reads: Reads, has_id: bool
) -> None:
    """A form with an id runs in one transaction, which takes back whatever its refusal wrote."""
    world.submit(world.ann, acceptable(1))
    client = Client()
    client.force_login(world.ann)
    before, reads.count = stored(blob_root), 0
    answers = [
        client.post(
            f"/bounties/{world.bounty.pk}/submit/",
            {
                "diff": acceptable(1).replace("@@\n", f"@@ form {number}\n"),
                "call_id": str(uuid4()) if has_id else "",
            },
        ).status_code
        for number in range(REQUESTS)
    ]
    assert answers == [400] * 10 + [429] * (REQUESTS - 10)
    assert reads.count == 10
    assert stored(blob_root) == before


def test_a_copy_stores_its_own_diff_and_nothing_else(world: World, blob_root: Path) -> None:
    world.submit(world.ann, acceptable(1))
    before = stored(blob_root)
    copy = world.submit(world.bob, acceptable(1).replace("@@\n", "@@ mine\n"))
    assert copy.copy_of_id is not None
    assert stored(blob_root) - before == {f"{copy.diff_blob[:2]}/{copy.diff_blob[2:]}"}


def test_a_diff_that_is_taken_stores_its_tree_and_itself(world: World, blob_root: Path) -> None:
    before = stored(blob_root)
    taken = world.submit(world.ann, acceptable(1))
    assert len(stored(blob_root) - before) == 2
    assert blob_store().get(taken.diff_blob).decode() == acceptable(1)
    assert taken.candidate_tree is not None
    for entry in trees.load_tree(taken.candidate_tree).entries:
        assert blob_store().get(entry.blob)


def test_a_diff_that_is_taken_costs_no_try(world: World, settings: Settings) -> None:
    settings.REJECTIONS_PER_HOUR = 1
    for number in range(3):
        assert world.submit(world.ann, acceptable(number)).state == "queued"
    assert world.submit(world.ann, "this is no diff").state == "rejected"
    with pytest.raises(TooManyAttempts):
        world.submit(world.ann, acceptable(4))


def test_a_candidate_that_is_refused_at_last_stores_nothing(world: World, blob_root: Path) -> None:
    world.submit(world.ann, acceptable(1))
    before = stored(blob_root)
    with pytest.raises(AlreadySubmitted):
        world.submit(world.ann, acceptable(1).replace("@@\n", "@@ again\n"))
    assert stored(blob_root) == before


def test_a_tree_that_is_refused_stores_nothing(world: World, blob_root: Path, reads: Reads) -> None:
    """The first file of the patch fits, the second does not: neither is kept."""
    client, before = client_of(world.ann), stored(blob_root)
    two = acceptable(1) + (
        "diff --git a/model/layers/moe/router.py b/model/layers/moe/router.py\n"
        "--- a/model/layers/moe/router.py\n+++ b/model/layers/moe/router.py\n"
        "@@ -1,1 +1,1 @@\n-gate = 'other'\n+gate = 'sigmoid'\n"
    )
    answer = client.post("/api/v1/trees/", {"base": world.tree.pk, "diff": two}, format="json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "does_not_apply")
    reads.count = 0
    answer = client.post("/api/v1/trees/", {"base": world.tree.pk, "diff": large(1)}, format="json")
    assert (answer.status_code, answer.json()["error"]["code"], reads.count) == (400, "too_large", 0)
    assert stored(blob_root) == before


def test_a_reproduction_that_is_not_wanted_is_not_stored(world: World, blob_root: Path) -> None:
    client, before = client_of(world.ann), stored(blob_root)
    body = {"bounty": str(world.bounty.pk), "text": "def observe(): ...\n"}
    assert client.post("/api/v1/reproductions/", body, format="json").status_code == 400
    assert stored(blob_root) == before


def test_the_deadline_counts_before_the_diff(world: World, reads: Reads) -> None:
    Bounty.objects.filter(pk=world.bounty.pk).update(deadline_at=timezone.now())
    assert send(client_of(world.ann), world.bounty, acceptable(1)) == 409
    assert reads.count == 0
