"""Following a bound branch over real HTTP: pushes move the tip, rewritten histories stop merges."""

import pytest

from bounty.errors import BadRequest, NotAllowed, NotFound, WrongState
from bounty.github.repositories.bindings import bind, release_repository_stop, unbind
from bounty.github.repositories.following import RETRY_AFTER, due_lineages, follow
from bounty.models import Push, RepositoryBinding, StateChange, StoredTree, WaitingMerge
from bounty.services.merges import merge, merge_waiting
from bounty.services.reviews import review
from bounty.services.submissions import find_submission
from bounty.services.transitions import history
from bounty.services.trees import blob_store, load_tree
from tests.bounty.bounty_world import diff_of_line
from tests.bounty.github.conftest import Bound

DIFF = diff_of_line(3, "step_3 = 33")


def test_a_branch_that_has_the_tip_moves_nothing(bound: Bound) -> None:
    binding = bound.follow()
    assert (binding.problem, binding.commit, binding.tree) == ("", bound.first, bound.world.tree)
    assert bound.lineage.tip == bound.world.tree and not Push.objects.exists()


def test_a_push_that_changes_the_folder_moves_the_tip(bound: Bound) -> None:
    bound.follow()
    commit = bound.push("gate = 'sigmoid'\n")
    binding = bound.follow()
    tip = bound.lineage.tip
    assert binding.problem == "" and binding.commit == commit and binding.tree == tip
    assert tip.parent == bound.world.tree
    entry = load_tree(tip).get("model/layers/moe/router.py")
    assert entry is not None and blob_store().get(entry.blob) == b"gate = 'sigmoid'\n"
    move = history(bound.lineage)[-1]
    assert (move.old, move.new, move.actor) == (bound.world.tree.pk, tip.pk, None)
    assert commit[:12] in move.reason and "main" in move.reason


def test_following_again_changes_nothing(bound: Bound) -> None:
    bound.push("gate = 'sigmoid'\n")
    bound.follow()
    before = StateChange.objects.count()
    bound.follow()
    assert (StateChange.objects.count(), Push.objects.count()) == (before, 1)


def test_a_push_beside_the_folder_leaves_the_tip(bound: Bound) -> None:
    bound.follow()
    bound.repository.put("notes.txt", "More")
    commit = bound.repository.commit()
    assert bound.follow().commit == commit
    assert bound.lineage.tip == bound.world.tree and not Push.objects.exists()


def test_a_folder_elsewhere_is_the_lineages_model(bound: Bound) -> None:
    bound.repository.put_tree(bound.world.tree, folder="src/stack")
    bound.repository.commit()
    bound.bind(folder="src/stack")
    assert bound.follow().tree == bound.world.tree


def test_nothing_is_checked_out_and_the_copy_is_bare(bound: Bound) -> None:
    bound.follow()
    assert (bound.mirror / "HEAD").is_file()
    assert not list(bound.mirror.rglob("*.py")) and not (bound.mirror / "index").exists()
    assert not (bound.mirror / "hooks").exists()


def test_a_branch_without_a_merged_gain_does_not_take_it_back(bound: Bound) -> None:
    bound.follow()
    submission = bound.world.vested(bound.world.ann, DIFF)
    merged = bound.lineage.tip
    assert merged.pk == submission.candidate_tree_id
    bound.push("gate = 'sigmoid'\n")
    problem = bound.follow().problem
    assert bound.lineage.tip == merged and merged.pk[:12] in problem and "Commit that tree" in problem
    bound.repository.put_tree(merged)
    bound.repository.commit("the merged gain")
    assert bound.follow().problem == "" and bound.lineage.tip == merged
    bound.push("gate = 'sigmoid'\n")
    assert bound.follow().problem == "" and bound.lineage.tip != merged


def test_a_branch_that_was_at_the_merged_gain_in_between_is_followed(bound: Bound) -> None:
    bound.follow()
    bound.world.vested(bound.world.ann, DIFF)
    bound.repository.put_tree(bound.lineage.tip)
    bound.repository.commit("the merged gain")
    commit = bound.push("gate = 'sigmoid'\n")
    assert bound.follow().problem == ""
    assert Push.objects.get().commit == commit


def test_a_push_of_a_measured_tree_does_not_take_the_authors_award(bound: Bound) -> None:
    bound.follow()
    submission = bound.world.confirmed(bound.world.ann, DIFF)
    bound.repository.put_tree(StoredTree.objects.get(pk=submission.candidate_tree_id))
    bound.repository.commit("landed by hand")
    problem = bound.follow().problem
    assert str(submission.pk) in problem and bound.lineage.tip == bound.world.tree
    review(actor=bound.world.ruth, submission_id=submission.pk, decision="accept")
    merge(actor=bound.world.mira, submission_id=submission.pk)
    assert find_submission(submission.pk).state == "vested"
    assert bound.follow().problem == "" and not Push.objects.exists()


def test_a_rewritten_history_stops_merges_until_a_release(bound: Bound) -> None:
    bound.follow()
    submission = bound.world.confirmed(bound.world.ann, DIFF)
    review(actor=bound.world.ruth, submission_id=submission.pk, decision="accept")
    bound.repository.put("model/layers/moe/router.py", "gate = 'other'\n")
    forced = bound.repository.commit("rewritten", parent=None)
    bound.follow()
    stop = bound.lineage.standing_repository_stop
    assert stop is not None and (stop.lost_commit, stop.found_commit) == (bound.first, forced)
    assert bound.lineage.tip == bound.world.tree
    assert merge(actor=bound.world.mira, submission_id=submission.pk).merged_at is None
    assert WaitingMerge.objects.count() == 1 and merge_waiting() == 0
    with pytest.raises(NotAllowed):
        release_repository_stop(actor=bound.world.ann, name=bound.lineage.name, reason="please")
    with pytest.raises(BadRequest):
        release_repository_stop(actor=bound.world.mira, name=bound.lineage.name, reason=" ")
    release_repository_stop(actor=bound.world.mira, name=bound.lineage.name, reason="the history was cleaned")
    with pytest.raises(WrongState):
        release_repository_stop(actor=bound.world.mira, name=bound.lineage.name, reason="again")
    assert merge_waiting() == 1 and find_submission(submission.pk).merged_at is not None


def test_a_released_branch_is_followed_from_where_it_was_seen(bound: Bound) -> None:
    bound.follow()
    bound.repository.put("model/layers/moe/router.py", "gate = 'other'\n")
    bound.repository.commit("rewritten", parent=None)
    bound.follow()
    bound.follow()  # a stop that stands stays one stop
    assert bound.lineage.repository_stops.count() == 1
    release_repository_stop(actor=bound.world.mira, name=bound.lineage.name, reason="the history was cleaned")
    assert bound.follow().problem == ""
    assert bound.lineage.standing_repository_stop is None and bound.lineage.tip != bound.world.tree
    bound.push("gate = 'third'\n")
    bound.follow()
    assert bound.lineage.standing_repository_stop is None and Push.objects.count() == 2


def test_a_branch_that_got_its_tip_back_is_followed_as_before(bound: Bound) -> None:
    bound.follow()
    bound.repository.put("model/layers/moe/router.py", "gate = 'other'\n")
    bound.repository.commit("rewritten", parent=None)
    bound.follow()
    bound.repository.git("update-ref", "refs/heads/main", bound.first)
    bound.follow()
    stop = bound.lineage.standing_repository_stop
    assert stop is not None and stop.found_commit == bound.first
    release_repository_stop(actor=bound.world.mira, name=bound.lineage.name, reason="pushed back")
    assert bound.follow().problem == "" and bound.lineage.tip == bound.world.tree


def test_a_rewritten_history_with_the_same_folder_stops_nothing(bound: Bound) -> None:
    bound.follow()
    amended = bound.repository.commit("another message", parent=None)
    assert bound.follow().commit == amended and bound.lineage.standing_repository_stop is None


def test_a_rewritten_history_stops_merges_also_where_its_folder_is_refused(bound: Bound) -> None:
    bound.follow()
    bound.repository.files = {"README.md": bound.repository.files["README.md"]}
    bound.repository.commit("rewritten", parent=None)
    bound.follow()
    assert bound.lineage.standing_repository_stop is not None


def test_a_branch_that_is_gone_is_said(bound: Bound) -> None:
    bound.bind(branch="gone")
    assert "no branch gone" in bound.follow().problem
    assert due_lineages() == []
    RepositoryBinding.objects.update(checked_at=RepositoryBinding.objects.get().checked_at - RETRY_AFTER)
    assert due_lineages() == [bound.lineage.name]


def test_a_repository_that_is_gone_is_said(bound: Bound) -> None:
    bound.bind(repository=f"{bound.url}/nothing.git")
    assert "cannot be read without a password, or is not there" in bound.follow().problem


def test_binding_to_another_repository_removes_the_copy(
    bound: Bound, django_capture_on_commit_callbacks: object
) -> None:
    bound.follow()
    old = bound.mirror
    with django_capture_on_commit_callbacks(execute=True):
        bound.bind(branch="other")
    assert not old.exists() and bound.mirror != old
    unbind(actor=bound.world.mira, name=bound.lineage.name)
    with pytest.raises(NotFound, match="not bound"):
        follow(lineage=bound.lineage.name)


def test_binding_again_to_the_same_place_changes_nothing(bound: Bound) -> None:
    before = RepositoryBinding.objects.get().pk
    bound.bind()
    assert RepositoryBinding.objects.get().pk == before


def test_only_maintainers_bind(bound: Bound) -> None:
    with pytest.raises(NotAllowed):
        bind(actor=bound.world.ann, name=bound.lineage.name, repository="a/b", branch="main")
