"""A push is not measured, so winning back what it lost earns nothing."""

from benchmarks.patch.trees import Tree, TreeEntry
from bounty.models import Award, Lineage, Push, Run, RunKind, StoredTree, Submission
from bounty.services.series.pushes import replaced_by_pushes
from bounty.services.trees import blob_store, load_tree, store_tree
from tests.bounty.bounty_world import World, diff_of_line

SLOW = "gate = detour('softmax')\n"
RESTORED = "gate = 'softmax'\n"  # as it was before the push


def back(to: str) -> str:
    """A diff against the slow tree that puts another router in its place."""
    return (
        "diff --git a/model/layers/moe/router.py b/model/layers/moe/router.py\n"
        "--- a/model/layers/moe/router.py\n+++ b/model/layers/moe/router.py\n"
        f"@@ -1 +1 @@\n-{SLOW}+{to}"
    )


BACK = back("gate = str('softmax')\n")  # the same speed in other words


def pushed(world: World, text: str = SLOW) -> StoredTree:
    """The tip after a push of a router with this text, as `bounty.github.repositories.following` records it."""
    lineage = Lineage.objects.select_related("tip").get(pk=world.lineage.pk)
    path, store = "model/layers/moe/router.py", blob_store()
    entries = [
        TreeEntry(path, entry.mode, store.put(text.encode())) if entry.path == path else entry
        for entry in load_tree(lineage.tip).entries
    ]
    tree = store_tree(tree=Tree(tuple(entries)), parent=lineage.tip)
    Push.objects.create(lineage=lineage, replaced=lineage.tip, tree=tree, commit=40 * "a")
    Lineage.objects.filter(pk=lineage.pk).update(tip=tree)
    return tree


def priced(world: World, submission: Submission, speed_up_log: float) -> Submission:
    world.gate(submission, speed_up_log)
    return world.gate(submission, speed_up_log)


def compared_trees(submission: Submission) -> list[str]:
    runs = Run.objects.filter(submission=submission, kind=RunKind.COMPARISON).order_by("queued_at")
    return list(runs.values_list("base_tree", flat=True))


def test_winning_back_what_a_slower_push_lost_pays_nothing(world: World) -> None:
    pushed(world)
    submission = priced(world, world.submit(world.bob, BACK), 0.5)
    assert compared_trees(submission) == [world.tree.pk]  # the tip that the push replaced
    submission = world.gate(submission, 0.0)  # the detour is all that it removes
    assert submission.state == "judged" and submission.verdict_kind == "no_gain"
    assert not Award.objects.filter(state="unvested").exists()


def test_restoring_the_very_tree_that_a_push_replaced_pays_nothing(world: World) -> None:
    pushed(world)
    submission = priced(world, world.submit(world.bob, back(RESTORED)), 0.5)
    assert submission.candidate_tree == world.tree
    assert (submission.state, submission.verdict_kind) == ("judged", "no_gain")
    assert "Restoring it is no gain" in submission.verdict_reason
    assert not Award.objects.filter(state="unvested").exists()


def test_a_gain_over_both_is_paid_by_the_smaller_one(world: World) -> None:
    pushed(world)
    submission = priced(world, world.submit(world.bob, BACK), 0.5)
    submission = world.guard(world.gate(submission, 0.1))
    award = Award.objects.get(submission=submission)
    assert submission.state == "confirmed" and 0 < (award.log_ppm_bound or 0) < 100_000


def test_a_second_push_does_not_hide_the_first(world: World) -> None:
    pushed(world)
    pushed(world, SLOW + "# again\n")
    assert replaced_by_pushes(bounty=world.bounty) == [world.tree]


def test_a_push_over_a_merged_gain_does_not_sell_the_gain_again(world: World) -> None:
    world.vested(world.ann, diff_of_line(3, "step_3 = 33"))
    merged = Lineage.objects.get(pk=world.lineage.pk).tip
    pushed(world)
    submission = priced(world, world.submit(world.bob, BACK), 0.5)
    assert compared_trees(submission) == [merged.pk]
    assert world.gate(submission, 0.0).verdict_kind == "no_gain"


def test_a_later_series_has_to_beat_the_tree_before_the_push_too(world: World) -> None:
    pushed(world)
    other = world.open(suite="moe_backward")
    assert replaced_by_pushes(bounty=other) == [world.tree]


def test_a_gain_that_was_priced_after_the_push_has_beaten_what_it_replaced(world: World) -> None:
    pushed(world)
    submission = priced(world, world.submit(world.bob, BACK), 0.5)
    world.guard(world.gate(submission, 0.1))
    assert replaced_by_pushes(bounty=world.bounty) == []
    assert replaced_by_pushes(bounty=world.bounty, of=submission) == [world.tree]
    assert replaced_by_pushes(bounty=world.open(suite="moe_backward")) == [world.tree]


def test_a_price_from_before_a_push_is_compared_with_what_the_push_replaced(world: World) -> None:
    submission = world.submit(world.ann, diff_of_line(3, "step_3 = 33"))
    submission = priced(world, submission, 0.3)
    pushed(world)
    submission = world.advance(submission)
    while compared_trees(submission) == []:
        submission = world.gate(submission, 0.3)
    assert world.tree.pk in compared_trees(submission)
