"""A push of what was measured is a merge, whatever the commit; it never accepts, and the tip waits for who does."""

from datetime import timedelta

import pytest
from django.utils import timezone

from bounty.errors import NotAllowed
from bounty.github.merging import reconcile
from bounty.github.merging.landings import standing_landing
from bounty.github.repositories.folder_trees import read_folder
from bounty.models import Award, Head, Lineage, PullRequest, Push, StoredTree, Submission
from bounty.services import wakeups
from bounty.services.awards.lifecycle import vest
from bounty.services.emergency import lift, stop
from bounty.services.merges import merge
from bounty.services.reviews import review
from bounty.services.series.best import measured_base
from bounty.services.series.pushes import replaced_by_pushes
from bounty.services.series.remeasure import applied_to
from bounty.services.submissions import find_submission
from bounty.services.transitions import history
from bounty.services.trees import blob_store, store_tree
from gainshare.ledger import services as ledger
from gainshare.ledger.audit import audit
from tests.bounty.bounty_world import diff_of_line
from tests.bounty.github.merging.conftest import Hub, accept, candidate, landing_of, state_of

DIFF = diff_of_line(3, "step_3 = 33")
OTHER = diff_of_line(9, "step_9 = 99")


def of_a_copy() -> str:
    """DIFF with another comment: the same code in another tree."""
    return diff_of_line(3, "step_3 = 33  # three")


def holds() -> bool:
    return [invariant.name for invariant in audit() if not invariant.holds] == []


def spendable(hub: Hub, submission: Submission) -> int:
    return ledger.balance(submission.submitter).available


def test_a_merge_after_enough_acceptances_vests(hub: Hub) -> None:
    world = hub.bound.world
    submission = world.confirmed(world.ann, DIFF)
    accept(world.ruth, submission)
    commit = hub.land_candidate(submission)
    assert hub.bound.follow().problem == ""
    assert state_of(submission) == "vested" and hub.bound.lineage.tip == candidate(submission)
    assert not Push.objects.exists() and landing_of(submission).state == "merged"
    binding = hub.bound.follow()
    assert (binding.commit, binding.tree_id) == (commit, submission.candidate_tree_id)
    move = history(hub.bound.lineage)[-1]
    assert move.actor is None and str(submission.pk) in move.reason and commit[:12] in move.reason


def test_a_merge_alone_vests_nothing_and_says_so(hub: Hub) -> None:
    world = hub.bound.world
    submission = world.confirmed(world.ann, DIFF)
    commit = hub.land_candidate(submission)
    problem = hub.bound.follow().problem
    assert "not accepted yet (0 of 1" in problem and commit[:12] in problem
    assert state_of(submission) == "confirmed" and hub.bound.lineage.tip == world.tree
    landing = standing_landing(submission)
    assert landing is not None and (landing.state, landing.problem) == ("waiting", problem)
    before = len(history(find_submission(submission.pk)))
    hub.bound.follow()
    assert len(history(find_submission(submission.pk))) == before


def test_it_vests_as_soon_as_it_is_accepted(
    hub: Hub, outbox: object, django_capture_on_commit_callbacks: object
) -> None:
    world = hub.bound.world
    submission = world.confirmed(world.ann, DIFF)
    hub.land_candidate(submission)
    hub.bound.follow()
    with django_capture_on_commit_callbacks(execute=True):  # type: ignore[operator]
        accept(world.ruth, submission)
    assert outbox.of(wakeups.FETCH) == [hub.bound.lineage.name]  # type: ignore[attr-defined]
    assert hub.bound.follow().problem == ""
    assert state_of(submission) == "vested" and Award.objects.filter(state="vested").count() == 1
    assert hub.bound.follow().problem == "" and holds()


def test_an_owner_who_merges_and_accepts_their_own_gets_nothing(hub: Hub) -> None:
    world = hub.bound.world
    submission = world.confirmed(world.mira, DIFF)
    hub.land_candidate(submission)
    hub.bound.follow()
    with pytest.raises(NotAllowed):
        accept(world.mira, submission)
    hub.bound.follow()
    assert state_of(submission) == "confirmed" and not Award.objects.filter(state="vested").exists()


def test_a_decline_after_a_merge_makes_the_branch_an_unmeasured_push(hub: Hub) -> None:
    world = hub.bound.world
    submission = world.confirmed(world.ann, DIFF)
    hub.land_candidate(submission)
    hub.bound.follow()
    review(actor=world.ruth, submission_id=submission.pk, decision="decline")
    assert hub.bound.follow().problem == ""
    assert state_of(submission) == "declined" and landing_of(submission).state == "ended"
    push = Push.objects.get()
    assert (push.replaced, push.tree) == (world.tree, candidate(submission))
    assert replaced_by_pushes(bounty=world.bounty) == [world.tree]
    assert measured_base(bounty=world.bounty) == candidate(submission)


def test_a_merge_with_commits_after_it_in_the_same_push(hub: Hub) -> None:
    world = hub.bound.world
    submission = world.confirmed(world.ann, DIFF)
    accept(world.ruth, submission)
    hub.land_candidate(submission)
    last = hub.bound.push("gate = 'sigmoid'\n")
    assert hub.bound.follow().problem == ""
    assert state_of(submission) == "vested"
    push = Push.objects.get()
    assert (push.replaced, push.commit, push.tree) == (candidate(submission), last, hub.bound.lineage.tip)


def test_commits_after_a_merge_wait_for_its_acceptance(hub: Hub) -> None:
    world = hub.bound.world
    submission = world.confirmed(world.ann, DIFF)
    hub.land_candidate(submission)
    hub.bound.push("gate = 'sigmoid'\n")
    assert "not accepted yet" in hub.bound.follow().problem and hub.bound.lineage.tip == world.tree
    accept(world.ruth, submission)
    assert hub.bound.follow().problem == ""
    assert state_of(submission) == "vested" and Push.objects.get().replaced == candidate(submission)


def test_two_merges_in_one_push_are_two_merges(hub: Hub) -> None:
    """The second was priced on the first, which was not merged then."""
    world = hub.bound.world
    first = world.confirmed(world.ann, DIFF)
    second = world.confirmed(world.bob, OTHER, 0.2)
    assert find_submission(second.pk).base_tree == candidate(first)
    hub.land_candidate(first)
    hub.land_candidate(second)
    accept(world.ruth, second)
    problem = hub.bound.follow().problem
    assert str(first.pk) in problem and hub.bound.lineage.tip == world.tree
    waits = standing_landing(second)
    assert waits is not None and "has to be merged first" in waits.problem
    accept(world.ruth, first)
    assert hub.bound.follow().problem == ""
    assert (state_of(first), state_of(second)) == ("vested", "vested")
    assert hub.bound.lineage.tip == candidate(second) and not Push.objects.exists()


def test_a_stack_that_is_squashed_into_one_commit_merges_each(hub: Hub) -> None:
    world = hub.bound.world
    first = world.confirmed(world.ann, DIFF)
    second = world.confirmed(world.bob, OTHER, 0.2)
    accept(world.ruth, first)
    accept(world.ruth, second)
    hub.land_candidate(second)
    assert hub.bound.follow().problem == ""
    assert (state_of(first), state_of(second)) == ("vested", "vested")


def test_a_merge_onto_another_push_is_measured_again_there(hub: Hub) -> None:
    world = hub.bound.world
    submission = world.confirmed(world.ann, DIFF)
    accept(world.ruth, submission)
    hub.bound.push("gate = 'sigmoid'\n")
    below = read_tree(hub)
    merged = applied_to(below, submission)
    hub.land(merged)
    problem = hub.bound.follow().problem
    assert "measured again" in problem and hub.bound.lineage.tip == below
    assert landing_of(submission).state == "again"
    world.advance(submission)
    assert find_submission(submission.pk).candidate_tree == merged
    assert "It is being judged" in hub.bound.follow().problem
    world.gate(submission, 0.25)  # against the push, and against what it replaced
    world.gate(submission, 0.28)
    world.guard(submission)
    assert "not accepted yet" in hub.bound.follow().problem  # the acceptance was of the older candidate
    accept(world.ruth, submission)
    assert hub.bound.follow().problem == "" and state_of(submission) == "vested"
    assert hub.bound.lineage.tip == merged and Push.objects.count() == 1


def read_tree(hub: Hub) -> StoredTree:
    """The tree of the branch, stored without following it."""
    store = blob_store()
    tree = read_folder(hub.bound.repository.folder, commit="main", folder="model", store=store)
    return store_tree(tree=tree)


def test_a_squash_with_an_extra_change_vests_nothing(hub: Hub) -> None:
    world = hub.bound.world
    submission = world.confirmed(world.ann, DIFF)
    accept(world.ruth, submission)
    hub.bound.repository.put_tree(candidate(submission))
    hub.bound.push("gate = 'sigmoid'\n")
    problem = hub.bound.follow().problem
    assert str(submission.pk) in problem and "not as it was measured" in problem
    assert state_of(submission) == "accepted" and hub.bound.lineage.tip == world.tree
    assert landing_of(submission).state == "differs" and not Push.objects.exists()
    merge(actor=world.mira, submission_id=submission.pk)  # what was measured is merged here, by a maintainer
    assert hub.bound.follow().problem == ""
    assert state_of(submission) == "vested" and Push.objects.get().replaced == candidate(submission)


def test_a_squash_with_an_extra_change_in_the_same_lines_is_known_by_its_pull_request(hub: Hub) -> None:
    world = hub.bound.world
    submission = world.confirmed(world.ann, DIFF)
    head = hub.head(submission)
    hub.bound.repository.put(
        "model/layers/moe/experts.py",
        "".join(f"step_{n} = {34 if n == 3 else n}\n" for n in range(1, 13)),
    )
    commit = hub.bound.repository.commit("squash, tuned")
    PullRequest.objects.filter(pk=head.pull_request_id).update(merge_sha=commit, state="merged")
    assert "not as it was measured" in hub.bound.follow().problem
    assert state_of(submission) == "confirmed" and hub.bound.lineage.tip == world.tree
    review(actor=world.ruth, submission_id=submission.pk, decision="decline")
    assert hub.bound.follow().problem == "" and Push.objects.count() == 1


def test_a_commit_of_the_measured_tree_heals_a_squash(hub: Hub) -> None:
    world = hub.bound.world
    submission = world.confirmed(world.ann, DIFF)
    accept(world.ruth, submission)
    hub.bound.repository.put_tree(candidate(submission))
    hub.bound.push("gate = 'sigmoid'\n")
    hub.bound.follow()
    hub.land_candidate(submission)
    assert hub.bound.follow().problem == "" and state_of(submission) == "vested"


def test_a_diff_that_every_tree_contains_stops_no_push(hub: Hub) -> None:
    """Else anybody could hold a branch up with an open submission."""
    world = hub.bound.world
    world.submit(world.ann, diff_of_line(3, "step_4 = 4"))
    hub.bound.push("gate = 'sigmoid'\n")
    assert hub.bound.follow().problem == "" and Push.objects.count() == 1


def test_a_merge_while_it_is_judged_waits_for_the_verdict(hub: Hub) -> None:
    world = hub.bound.world
    submission = world.submit(world.ann, DIFF)
    hub.land_candidate(submission)
    assert "being judged" in hub.bound.follow().problem and hub.bound.lineage.tip == world.tree
    world.gate(submission, 0.3)
    assert "being judged" in hub.bound.follow().problem
    world.price(submission, 0.3)
    assert "not accepted yet" in hub.bound.follow().problem
    accept(world.ruth, submission)
    assert hub.bound.follow().problem == "" and state_of(submission) == "vested"


def test_a_merge_of_what_turns_out_to_be_no_gain_is_a_push(hub: Hub) -> None:
    world = hub.bound.world
    submission = world.submit(world.ann, DIFF)
    hub.land_candidate(submission)
    hub.bound.follow()
    world.gate(submission, 0.0)
    assert state_of(submission) == "judged"
    assert hub.bound.follow().problem == ""
    assert Push.objects.get().tree == candidate(submission) and landing_of(submission).state == "ended"


def test_a_merge_of_a_suspicious_submission_waits_for_a_maintainer(hub: Hub) -> None:
    world = hub.bound.world
    submission = world.confirmed(world.ann, DIFF)
    Submission.objects.filter(pk=submission.pk).update(state="judged", verdict_kind="suspicious")
    hub.land_candidate(submission)
    assert "suspicious" in hub.bound.follow().problem and hub.bound.lineage.tip == world.tree
    review(actor=world.ruth, submission_id=submission.pk, decision="decline")
    assert hub.bound.follow().problem == "" and Push.objects.count() == 1


def test_a_merge_of_a_declined_submission_is_a_push(hub: Hub) -> None:
    world = hub.bound.world
    submission = world.confirmed(world.ann, DIFF)
    review(actor=world.ruth, submission_id=submission.pk, decision="decline")
    hub.land_candidate(submission)
    assert hub.bound.follow().problem == "" and Push.objects.count() == 1
    assert state_of(submission) == "declined" and not Award.objects.filter(state="vested").exists()


def test_a_merged_copy_pays_neither_its_author_nor_loses_the_originals_award(hub: Hub) -> None:
    world = hub.bound.world
    original = world.submit(world.ann, DIFF)
    copy = world.submit(world.bob, of_a_copy())
    world.gate(original, 0.3)
    world.price(original, 0.3)
    world.advance(copy)
    assert (state_of(original), state_of(copy)) == ("confirmed", "rejected")
    assert candidate(copy) != candidate(original)
    accept(world.ruth, original)
    hub.land_candidate(copy)
    problem = hub.bound.follow().problem
    assert str(original.pk) in problem and "not as it was measured" in problem
    assert (state_of(original), state_of(copy)) == ("accepted", "rejected")
    hub.land_candidate(original)
    assert hub.bound.follow().problem == "" and state_of(original) == "vested"
    assert not Award.objects.filter(submission__submitter=world.bob).exists()


def test_the_same_code_in_another_form_is_known_without_any_submission_of_it(hub: Hub) -> None:
    world = hub.bound.world
    original = world.confirmed(world.ann, DIFF)
    hub.bound.repository.put(
        "model/layers/moe/experts.py",
        "".join(f"step_{n} = {'33  # three' if n == 3 else n}\n" for n in range(1, 13)),
    )
    hub.bound.repository.commit("by hand")
    assert "not as it was measured" in hub.bound.follow().problem
    assert state_of(original) == "confirmed" and not Push.objects.exists()


def test_a_merge_that_left_the_branch_before_its_acceptance_is_none(hub: Hub) -> None:
    world = hub.bound.world
    submission = world.confirmed(world.ann, DIFF)
    hub.land_candidate(submission)
    hub.bound.follow()
    hub.land(world.tree, "revert")
    assert hub.bound.follow().problem == "" and landing_of(submission).state == "ended"
    accept(world.ruth, submission)
    hub.bound.follow()
    assert state_of(submission) == "accepted" and hub.bound.lineage.tip == world.tree


def test_an_acceptance_after_the_tip_moved_does_not_count_for_the_old_tree(hub: Hub) -> None:
    world = hub.bound.world
    submission = world.confirmed(world.ann, DIFF)
    hub.land_candidate(submission)
    hub.bound.follow()
    old = candidate(submission)
    third = world.open(suite="moe_backward")
    Lineage.objects.filter(pk=world.lineage.pk).update(
        tip=applied_to(world.tree, find_submission(world.submit(world.bob, OTHER, third).pk))
    )
    world.advance(submission)
    assert candidate(submission) != old and state_of(submission) == "confirming"
    hub.bound.follow()
    assert state_of(submission) == "confirming" and not Award.objects.filter(state="vested").exists()


def test_a_gain_that_was_paid_without_a_merge_is_merged_and_not_paid_again(hub: Hub) -> None:
    world = hub.bound.world
    submission = world.confirmed(world.ann, DIFF)
    accept(world.ruth, submission)
    assert vest(submission=find_submission(submission.pk), reason="the review window passed")
    paid = spendable(hub, submission)
    hub.land_candidate(submission)
    assert hub.bound.follow().problem == "" and hub.bound.lineage.tip == candidate(submission)
    assert spendable(hub, submission) == paid and not Push.objects.exists()


def test_a_merge_before_its_head_was_submitted_waits_for_that(hub: Hub) -> None:
    """Else the push would take the change into the tip, and nothing would be left to measure."""
    world = hub.bound.world
    head = hub.head(world.submit(world.bob, OTHER))
    merged = applied_to(world.tree, find_submission(world.submit(world.ann, DIFF).pk))
    Submission.objects.filter(submitter=world.ann).update(state="withdrawn")
    Head.objects.filter(pk=head.pk).update(submission=None, state="waiting", tree=merged)
    hub.land(merged)
    assert "about to be judged" in hub.bound.follow().problem and hub.bound.lineage.tip == world.tree
    Head.objects.filter(pk=head.pk).update(seen_at=timezone.now() - timedelta(days=2))
    assert hub.bound.follow().problem == "" and hub.bound.lineage.tip == merged


def test_merges_that_are_stopped_wait(hub: Hub) -> None:
    world = hub.bound.world
    submission = world.confirmed(world.ann, DIFF)
    accept(world.ruth, submission)
    stop(actor=world.mira, switch="merges", reason="an incident")
    hub.land_candidate(submission)
    assert "merges are stopped" in hub.bound.follow().problem and state_of(submission) == "accepted"
    lift(actor=world.mira, switch="merges")
    assert hub.bound.follow().problem == "" and state_of(submission) == "vested"


def test_beat_finds_what_was_accepted_while_no_message_came(
    hub: Hub, outbox: object, django_capture_on_commit_callbacks: object
) -> None:
    world = hub.bound.world
    submission = world.confirmed(world.ann, DIFF)
    hub.land_candidate(submission)
    hub.bound.follow()
    assert reconcile() == 0
    accept(world.ruth, submission)
    with django_capture_on_commit_callbacks(execute=True):  # type: ignore[operator]
        assert reconcile() == 1
    assert outbox.of(wakeups.FETCH) == [hub.bound.lineage.name]  # type: ignore[attr-defined]
    hub.bound.follow()
    assert reconcile() == 0
