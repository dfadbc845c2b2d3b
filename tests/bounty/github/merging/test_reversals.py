"""A branch that goes back to before a merge asks a maintainer; the same code landing again asks once more, and pays once."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from bounty.errors import BadRequest, NotAllowed, WrongState
from bounty.github.merging.recognition import pushed
from bounty.github.merging.reversals import decide, open_reversals
from bounty.github.unclaimed import return_unclaimed
from bounty.models import Award, Push, Reversal, Submission
from bounty.services.awards.lifecycle import reverse, vest
from bounty.services.merges import merge
from bounty.services.series.pushes import replaced_by_pushes
from bounty.services.submissions import find_submission
from gainshare.accounts.models import GitHubAccount, User
from gainshare.ledger import services as ledger
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import diff_of_line, make_user
from tests.bounty.github.merging.conftest import Hub, accept, candidate, state_of

DIFF = diff_of_line(3, "step_3 = 33")
OTHER = diff_of_line(9, "step_9 = 99")


def merged(hub: Hub, who: User | None = None, diff: str = DIFF, speed_up_log: float = 0.3) -> Submission:
    """A gain that was merged on GitHub and is paid."""
    world = hub.bound.world
    submission = world.confirmed(who or world.ann, diff, speed_up_log)
    accept(world.ruth, submission)
    hub.land_candidate(submission)
    assert hub.bound.follow().problem == "" and state_of(submission) == "vested"
    return submission


def answer(hub: Hub, who: User, said: str = "confirmed") -> Reversal:
    return decide(actor=who, reversal_id=open_reversals().get().pk, answer=said, text="the branch went back")


def available(who: User) -> int:
    return ledger.balance(who).available


def holds() -> bool:
    return [invariant.name for invariant in audit() if not invariant.holds] == []


def test_a_push_that_goes_back_only_asks(hub: Hub) -> None:
    world = hub.bound.world
    submission = merged(hub)
    commit = hub.land(world.tree, "revert")
    problem = hub.bound.follow().problem
    assert "went back" in problem and commit[:12] in problem
    assert state_of(submission) == "vested" and hub.bound.lineage.tip == candidate(submission)
    hub.bound.follow()
    row = Reversal.objects.get()
    assert (row.kind, row.state, row.commit, row.submission_id) == ("reversal", "open", commit, submission.pk)
    assert not Push.objects.exists()


def test_a_confirmed_reversal_takes_the_award_back(hub: Hub) -> None:
    world = hub.bound.world
    submission = merged(hub)
    assert available(world.ann) > 0
    hub.land(world.tree, "revert")
    hub.bound.follow()
    row = answer(hub, world.ruth)
    assert (row.state, row.answered_by) == ("confirmed", world.ruth)
    assert (state_of(submission), available(world.ann)) == ("reversed", 0)
    assert hub.bound.lineage.tip == world.tree
    assert hub.bound.follow().problem == "" and not Push.objects.exists() and holds()
    assert answer_again(row, world.ruth).state == "confirmed"
    with pytest.raises(WrongState):
        decide(actor=world.ruth, reversal_id=row.pk, answer="dismissed", text="no")


def answer_again(row: Reversal, who: User) -> Reversal:
    return decide(actor=who, reversal_id=row.pk, answer="confirmed", text="again")


def test_a_dismissed_reversal_is_a_push_that_gains_have_to_beat(hub: Hub) -> None:
    world = hub.bound.world
    submission = merged(hub)
    paid = available(world.ann)
    hub.land(world.tree, "revert")
    hub.bound.follow()
    answer(hub, world.ruth, "dismissed")
    assert hub.bound.follow().problem == ""
    assert (state_of(submission), available(world.ann)) == ("vested", paid)
    push = Push.objects.get()
    assert (push.replaced, push.tree) == (candidate(submission), world.tree)
    assert replaced_by_pushes(bounty=world.bounty) == [candidate(submission)]
    assert not open_reversals().exists()


def test_who_pushed_or_is_paid_does_not_decide(hub: Hub) -> None:
    world = hub.bound.world
    merged(hub)
    pusher, other = hub.link(world.mira), make_user("ned", "maintainer")
    commit = hub.land(world.tree, "revert")
    pushed(repository=hub.github, branch="main", commits=[commit], github_id=pusher.github_id)
    hub.bound.follow()
    for who in (world.mira, world.ann, world.bob, other):  # the last one's account on GitHub is not known
        with pytest.raises(NotAllowed):
            answer(hub, who)
        with pytest.raises(NotAllowed):
            answer(hub, who, "dismissed")
    hub.link(world.ruth)
    with pytest.raises(BadRequest):
        decide(actor=world.ruth, reversal_id=open_reversals().get().pk, answer="confirmed", text=" ")
    with pytest.raises(BadRequest):
        decide(actor=world.ruth, reversal_id=open_reversals().get().pk, answer="open", text="x")
    assert answer(hub, world.ruth).state == "confirmed"


def test_who_pushed_it_below_another_commit_does_not_decide(hub: Hub) -> None:
    """GitHub names the newest commit of a push."""
    world = hub.bound.world
    merged(hub)
    hub.land(world.tree, "revert")
    hub.bound.repository.put("notes.txt", "More")
    newest = hub.bound.repository.commit("on top")
    pushed(repository=hub.github, branch="main", commits=[newest], github_id=hub.link(world.mira).github_id)
    hub.bound.follow()
    with pytest.raises(NotAllowed, match="You pushed this"):
        answer(hub, world.mira)
    hub.link(world.ruth)
    assert answer(hub, world.ruth).state == "confirmed"


def test_an_author_who_is_a_maintainer_does_not_keep_their_award_by_dismissing(hub: Hub) -> None:
    world = hub.bound.world
    merged(hub, world.mira)
    hub.land(world.tree, "revert")
    hub.bound.follow()
    with pytest.raises(NotAllowed):
        answer(hub, world.mira, "dismissed")


def test_a_branch_that_moves_on_ends_the_question(hub: Hub) -> None:
    world = hub.bound.world
    submission = merged(hub)
    hub.land(world.tree, "revert")
    hub.bound.follow()
    hub.land_candidate(submission)
    assert hub.bound.follow().problem == "" and Reversal.objects.get().state == "ended"
    assert state_of(submission) == "vested" and hub.bound.lineage.tip == candidate(submission)


def test_code_that_landed_again_is_paid_to_its_author_once(hub: Hub) -> None:
    world = hub.bound.world
    submission = merged(hub)
    paid = available(world.ann)
    hub.land(world.tree, "revert")
    hub.bound.follow()
    answer(hub, world.ruth)
    hub.bound.follow()
    hub.land_candidate(submission)
    assert "again" in hub.bound.follow().problem
    assert (state_of(submission), available(world.ann)) == ("reversed", 0)  # a push alone pays nothing
    assert answer(hub, world.ruth).kind == "restoration"
    assert (state_of(submission), available(world.ann)) == ("vested", paid)
    assert hub.bound.lineage.tip == candidate(submission) and hub.bound.follow().problem == ""
    assert Award.objects.filter(state="vested").count() == 1 and holds()
    hub.land(world.tree, "revert again")
    hub.bound.follow()
    answer(hub, world.ruth)
    assert (state_of(submission), available(world.ann)) == ("reversed", 0) and holds()
    hub.bound.follow()
    hub.land_candidate(submission)
    assert hub.bound.follow().problem == "" and not open_reversals().exists()
    assert (state_of(submission), available(world.ann)) == ("reversed", 0)
    assert Push.objects.get().tree == candidate(submission) and holds()


def test_code_that_landed_again_before_the_next_fetch_is_asked_about_as_well(hub: Hub) -> None:
    world = hub.bound.world
    submission = merged(hub)
    hub.land(world.tree, "revert")
    hub.bound.follow()
    answer(hub, world.ruth)
    hub.land_candidate(submission)
    assert "again" in hub.bound.follow().problem
    assert open_reversals().get().kind == "restoration"


def test_credits_that_were_spent_are_a_debt_that_the_restoration_repays(hub: Hub) -> None:
    world = hub.bound.world
    submission = merged(hub)
    paid = available(world.ann)
    spend(world.ann, paid // 2)
    hub.land(world.tree, "revert")
    hub.bound.follow()
    answer(hub, world.ruth)
    hub.bound.follow()
    hub.land_candidate(submission)
    hub.bound.follow()
    answer(hub, world.ruth)
    assert available(world.ann) == paid - paid // 2 and holds()


def test_what_had_returned_unclaimed_is_restored_without_credits(hub: Hub) -> None:
    world = hub.bound.world
    submission = merged(hub)
    hub.link(world.ann)
    GitHubAccount.objects.filter(user=world.ann).update(linked_at=None)
    Award.objects.filter(state="vested").update(vested_at=timezone.now() - timedelta(days=91))
    assert return_unclaimed() == 1
    hub.land(world.tree, "revert")
    hub.bound.follow()
    answer(hub, world.ruth)
    hub.bound.follow()
    hub.land_candidate(submission)
    hub.bound.follow()
    answer(hub, world.ruth)
    assert (state_of(submission), available(world.ann)) == ("vested", 0) and holds()
    assert Award.objects.get(submission=submission).state == "returned" and return_unclaimed() == 0


def spend(who: User, amount: int) -> None:
    hold, soon = uuid4(), timezone.now() + timedelta(hours=1)
    ledger.open_hold(hold_id=hold, user=who, amount_microcredits=amount, expires_at=soon, reference="usage")
    ledger.settle_hold(hold_id=hold, amount_microcredits=amount)


def test_somebody_else_who_lands_the_code_again_is_not_paid(hub: Hub) -> None:
    world = hub.bound.world
    submission = merged(hub)
    hub.land(world.tree, "revert")
    hub.bound.follow()
    answer(hub, world.ruth)
    hub.bound.follow()
    theirs = world.submit(world.bob, DIFF)
    assert state_of(theirs) == "rejected"
    hub.land_candidate(submission)
    hub.bound.follow()
    answer(hub, world.ruth)
    assert available(world.bob) == 0 < available(world.ann)


def test_an_award_that_a_maintainer_took_back_does_not_return_by_a_push(hub: Hub) -> None:
    """A cheat was found: that its code is on the branch again restores nothing."""
    world = hub.bound.world
    submission = merged(hub)
    reverse(actor=world.ruth, submission=find_submission(submission.pk), reason="it cheats")
    hub.land(world.tree, "revert")
    hub.bound.follow()
    hub.land_candidate(submission)
    assert hub.bound.follow().problem == "" and not Reversal.objects.exists()
    assert (state_of(submission), available(world.ann)) == ("reversed", 0)


def test_a_branch_that_goes_back_past_two_merges_asks_about_both(hub: Hub) -> None:
    world = hub.bound.world
    first, second = merged(hub), merged(hub, world.bob, OTHER, 0.2)
    hub.land(world.tree, "revert both")
    hub.bound.follow()
    rows = list(open_reversals())
    assert {row.submission_id for row in rows} == {first.pk, second.pk}
    for row in rows:
        decide(actor=world.ruth, reversal_id=row.pk, answer="confirmed", text="both went")
    assert hub.bound.follow().problem == ""
    assert (state_of(first), state_of(second)) == ("reversed", "reversed")
    assert hub.bound.lineage.tip == world.tree and not available(world.ann) and not available(world.bob)


def test_a_restoration_is_refused_where_another_gain_was_paid_meanwhile(hub: Hub) -> None:
    world = hub.bound.world
    submission = merged(hub)
    hub.land(world.tree, "revert")
    hub.bound.follow()
    answer(hub, world.ruth)
    hub.bound.follow()
    other = world.confirmed(world.bob, OTHER, 0.2)
    accept(world.ruth, other)
    assert vest(submission=find_submission(other.pk), reason="the review window passed")
    hub.land_candidate(submission)
    hub.bound.follow()
    with pytest.raises(WrongState, match="was paid since"):
        answer(hub, world.ruth)
    answer(hub, world.ruth, "dismissed")
    assert hub.bound.follow().problem == "" and available(world.ann) == 0


def test_a_branch_that_never_had_the_merge_takes_nothing_back(hub: Hub) -> None:
    world = hub.bound.world
    hub.bound.push("gate = 'sigmoid'\n")
    hub.bound.follow()
    submission = world.submit(world.ann, DIFF)
    for _ in ("gate", "price", "comparison with the tip before the push"):
        world.gate(submission, 0.3)
    world.guard(submission)
    accept(world.ruth, submission)
    merge(actor=world.mira, submission_id=submission.pk)
    hub.land(world.tree, "revert the push")
    assert "does not have the lineage's tip" in hub.bound.follow().problem
    assert not Reversal.objects.exists()


def test_a_force_push_that_loses_the_merge_stops_merges(hub: Hub) -> None:
    submission = merged(hub)
    hub.bound.repository.git("update-ref", "refs/heads/main", hub.bound.first)
    hub.bound.follow()
    stop = hub.bound.lineage.standing_repository_stop
    assert stop is not None and stop.found_commit == hub.bound.first
    assert state_of(submission) == "vested" and hub.bound.lineage.tip == candidate(submission)
    assert not Reversal.objects.exists()
