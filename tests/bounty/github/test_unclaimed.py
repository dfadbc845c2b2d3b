"""Awards of people who never signed in: back to the escrow after 90 days, once, and never to two."""

import signal
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection, transaction
from django.test import RequestFactory
from django.utils import timezone

from bounty.github.app.facts import AccountFacts
from bounty.github.people import account_of, return_unclaimed
from bounty.github.pulls.judging import _submit, current_head
from bounty.github.repositories.connections import connect
from bounty.models import Award, AwardState, Head, HeadState, StateChange, Submission, SubmissionState
from bounty.services.awards.lifecycle import restore, reverse
from bounty.services.bounties import available_escrow, close_bounty, find_bounty
from bounty.services.reviews import review
from bounty.services.series.best import best_award
from bounty.services.submissions import find_submission
from bounty.services.trees import blob_store
from gainshare.accounts.github_accounts import GitHubAccountTaken, link, lock_number
from gainshare.accounts.github_entrance import enter
from gainshare.accounts.github_oauth import Person
from gainshare.accounts.models import GitHubAccount, User
from gainshare.ledger import services as ledger
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import World, diff_of_line, make_user
from tests.bounty.pages.github_rows import a_pull_request, a_repository
from tests.bounty.services.test_killed_control import in_a_worker
from tests.bounty.services.test_races import at_once

pytestmark = pytest.mark.django_db(transaction=True)

NINA = AccountFacts(4711, "nina")
DIFF = diff_of_line(3, "step_3 = 33")
RETURN = (
    "import django; django.setup(); from bounty.github.people import return_unclaimed; return_unclaimed()"
)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    assert [invariant.name for invariant in audit() if not invariant.holds] == []


@pytest.fixture
def nina() -> User:
    return account_of(NINA).user


def long_ago() -> None:
    """Move the awards' times back by 90 days."""
    for award in Award.objects.all():
        for name in ("vested_at", "booked_at"):
            at = getattr(award, name)
            if at is not None:
                Award.objects.filter(pk=award.pk).update(**{name: at - timedelta(days=90)})


def signs_in(username: str = "nina") -> User:
    request = RequestFactory().post("/", REMOTE_ADDR="192.0.2.1")
    return enter(request=request, person=Person(NINA.github_id, NINA.login, None), username=username)


def test_a_vested_award_goes_back_after_90_days_and_the_gain_still_counts(world: World, nina: User) -> None:
    submission = world.vested(nina, DIFF)
    award = submission.awards.get()
    assert return_unclaimed() == 0 and ledger.balance(nina).available == award.amount_microcredits
    long_ago()
    assert return_unclaimed() == 1 and return_unclaimed() == 0
    award.refresh_from_db()
    assert award.state == AwardState.RETURNED and award.ended_at is not None
    assert ledger.balance(nina).available == 0
    assert available_escrow(find_bounty(world.bounty.pk)) == world.escrow
    submission = find_submission(submission.pk)
    assert (
        submission.state == SubmissionState.VESTED
        and submission.bounty.lineage.tip == award.confirmation_run.candidate_tree
    )  # type: ignore[union-attr]  # booked
    assert best_award(bounty=world.bounty) == award
    assert "never signed in" in StateChange.objects.filter(subject="award").last().reason  # type: ignore[union-attr]


def test_a_booked_award_that_nobody_merged_goes_back_too(world: World, nina: User) -> None:
    submission = world.confirmed(nina, DIFF)
    assert return_unclaimed() == 0
    long_ago()
    assert return_unclaimed() == 1 and return_unclaimed() == 0
    assert find_submission(submission.pk).state == SubmissionState.DECLINED
    assert submission.awards.get().state == AwardState.VOID
    assert available_escrow(find_bounty(world.bounty.pk)) == world.escrow
    assert best_award(bounty=world.bounty) is None


def test_what_is_merged_and_not_accepted_waits(world: World, nina: User) -> None:
    submission = world.confirmed(nina, DIFF)
    Submission.objects.filter(pk=submission.pk).update(merged_at=timezone.now())
    long_ago()
    assert return_unclaimed() == 0


def test_the_award_of_a_closed_bounty_goes_back_to_the_treasury(world: World, nina: User) -> None:
    world.vested(nina, DIFF)
    close_bounty(bounty_id=world.bounty.pk, reason="enough", actor=world.mira)
    before = ledger.totals().treasury
    long_ago()
    assert return_unclaimed() == 1
    assert ledger.totals().treasury == before + Award.objects.get().amount_microcredits  # type: ignore[operator]


def test_whoever_signed_in_keeps_it_and_so_does_everybody_else(world: World, nina: User) -> None:
    world.vested(nina, DIFF)
    world.vested(world.ann, diff_of_line(4, "step_4 = 44"), 0.6)
    signs_in()
    long_ago()
    assert return_unclaimed() == 0
    assert set(Award.objects.values_list("state", flat=True)) == {AwardState.VESTED}


def test_a_returned_award_can_still_be_reversed(world: World, nina: User) -> None:
    submission = world.vested(nina, DIFF)
    long_ago()
    return_unclaimed()
    reverse(actor=world.mira, submission=find_submission(submission.pk), reason="a cheat")
    assert submission.awards.get().state == AwardState.REVERSED
    assert find_submission(submission.pk).bounty.lineage.tip == world.tree
    assert available_escrow(find_bounty(world.bounty.pk)) == world.escrow


def test_a_restored_award_that_went_back_unclaimed_stays_there(world: World, nina: User) -> None:
    submission = world.vested(nina, DIFF)
    long_ago()
    return_unclaimed()
    reverse(actor=world.mira, submission=find_submission(submission.pk), reason="reverted")
    with transaction.atomic():
        restore(actor=world.mira, submission=find_submission(submission.pk), reason="landed again")
    assert ledger.balance(nina).available == 0 and return_unclaimed() == 0
    long_ago()
    assert return_unclaimed() == 0 and submission.awards.get().state == AwardState.RETURNED
    assert available_escrow(find_bounty(world.bounty.pk)) == world.escrow


def test_one_that_fails_does_not_keep_the_others(
    world: World, nina: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = world.vested(nina, DIFF)
    second = world.vested(nina, diff_of_line(4, "step_4 = 44"), 0.6)
    long_ago()
    real = ledger.reverse_award
    broken = first.awards.get().transfer_id

    def failing(**terms: object) -> object:
        if terms["transfer_id"] == broken:
            raise RuntimeError("for the test")
        return real(**terms)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(ledger, "reverse_award", failing)
    assert return_unclaimed() == 1
    assert (first.awards.get().state, second.awards.get().state) == (AwardState.VESTED, AwardState.RETURNED)


@pytest.mark.parametrize("fault", ["unclaimed.before_commit", "unclaimed.returned"])
@pytest.mark.parametrize("is_vested", [True, False])
def test_a_return_that_was_killed_moves_the_money_once(
    world: World, nina: User, fault: str, is_vested: bool, tmp_path: Path
) -> None:
    submission = world.vested(nina, DIFF) if is_vested else world.confirmed(nina, DIFF)
    long_ago()
    marks = tmp_path / "marks"
    assert in_a_worker(RETURN, fault=fault, marks=marks) == -signal.SIGKILL
    assert in_a_worker(RETURN, fault=fault, marks=marks) == 0
    assert return_unclaimed() == 0
    assert available_escrow(find_bounty(world.bounty.pk)) == world.escrow
    assert submission.awards.get().state == (AwardState.RETURNED if is_vested else AwardState.VOID)


def test_returns_at_once_move_the_money_once(world: World, nina: User) -> None:
    world.vested(nina, DIFF)
    long_ago()
    assert sorted(at_once([return_unclaimed] * 4)) == [0, 0, 0, 1]
    assert available_escrow(find_bounty(world.bounty.pk)) == world.escrow


def test_a_claim_that_was_first_keeps_the_award(world: World, nina: User) -> None:
    """The return has found the award due, and gets the number's lock after the claim."""
    world.vested(nina, DIFF)
    long_ago()
    returned: list[int] = []

    def returning() -> None:
        returned.append(return_unclaimed())
        connection.close()

    thread = threading.Thread(target=returning)
    with transaction.atomic():
        lock_number(NINA.github_id)
        thread.start()
        await_a_waiting_backend()
        signs_in()
    thread.join(60)
    assert returned == [0] and Award.objects.get().state == AwardState.VESTED
    assert ledger.balance(User.objects.get(username="nina")).available > 0


def test_a_claim_and_a_return_at_once_are_one_of_them(world: World, nina: User) -> None:
    world.vested(nina, DIFF)
    long_ago()
    results = at_once([return_unclaimed, signs_in])
    assert results[0] in (0, 1) and isinstance(results[1], User)
    has_it = ledger.balance(results[1]).available > 0
    assert has_it == (results[0] == 0)
    assert Award.objects.get().state == (AwardState.VESTED if has_it else AwardState.RETURNED)


def await_a_waiting_backend() -> None:
    """Until a session waits for a number's lock."""
    for _ in range(200):
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'")
            if cursor.fetchone()[0]:
                return
        time.sleep(0.05)
    raise AssertionError("nothing waited")


def test_linking_brings_the_submissions_that_no_credits_were_booked_for(world: World, nina: User) -> None:
    submission = world.submit(nina, DIFF)
    world.gate(submission, 0.3)
    ned = make_user("ned")
    link(user=ned, github_id=NINA.github_id, login="nina")
    assert GitHubAccount.objects.get().user == ned and not User.objects.get(pk=nina.pk).is_active
    world.price(submission, 0.3)
    assert find_submission(submission.pk).submitter == ned
    review(actor=world.ruth, submission_id=submission.pk, decision="accept")
    assert ledger.balance(ned).unvested > 0
    assert account_of(NINA).user == ned


def test_linking_to_whoever_has_booked_credits_is_refused(world: World, nina: User) -> None:
    submission = world.confirmed(nina, DIFF)
    ned = make_user("ned")
    with pytest.raises(GitHubAccountTaken, match="credits of its own"):
        link(user=ned, github_id=NINA.github_id, login="nina")
    assert find_submission(submission.pk).submitter == nina
    assert account_of(NINA).is_dormant and User.objects.get(pk=nina.pk).is_active
    assert signs_in().pk == nina.pk  # as the refusal says


def test_a_maintainer_cannot_link_an_account_whose_submission_they_decided_about(
    world: World, nina: User
) -> None:
    submission = world.confirmed(nina, DIFF)
    review(actor=world.ruth, submission_id=submission.pk, decision="decline")
    with pytest.raises(GitHubAccountTaken, match="no one decides"):
        link(user=world.ruth, github_id=NINA.github_id, login="nina")


def test_a_booking_and_a_link_at_once_pay_one_person(world: World, nina: User) -> None:
    submission = world.submit(nina, DIFF)
    world.gate(submission, 0.3)
    world.gate(submission, 0.3)
    world.judge(0.0)
    ned = make_user("ned")
    results = at_once(
        [
            lambda: world.advance(submission),
            lambda: link(user=ned, github_id=NINA.github_id, login="nina"),
        ]
    )
    owner = find_submission(submission.pk).submitter
    assert owner == (nina if isinstance(results[1], GitHubAccountTaken) else ned), results
    world.advance(submission)
    assert ledger.balance(owner).unvested > 0
    assert ledger.balance(ned if owner == nina else nina).unvested == 0


def test_a_submission_that_is_under_way_while_its_author_links_is_the_users(world: World, nina: User) -> None:
    """A control worker has read who the author is, and submits after the link."""
    repository = a_repository()
    connect(actor=world.mira, name=world.lineage.name, github_id=repository.pk, branch="main")
    pull = a_pull_request(repository, bounty=world.bounty)
    Head.objects.update(state=HeadState.WAITING, diff_blob=blob_store().put(DIFF.encode()))
    read_before = current_head(pull)
    assert read_before is not None
    ned = make_user("ned")
    link(user=ned, github_id=NINA.github_id, login="nina")
    _submit(read_before, world.bounty)
    assert not Submission.objects.exists() and Head.objects.get().state == HeadState.WAITING
    now = current_head(pull)
    assert now is not None
    _submit(now, world.bounty)
    assert Submission.objects.get().submitter == ned
