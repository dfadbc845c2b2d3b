"""Deploying a lineage's tip: who may, which tips may serve, and what a lineage's setting deploys by itself."""

from __future__ import annotations

import math

import pytest

from benchmarks.catalogue import SUITES
from benchmarks.patch.trees import Tree, TreeEntry
from bounty.errors import NotAllowed, NotFound, WrongState
from bounty.models import AutomaticDeploy, Lineage, Submission
from bounty.services.deployments import tips
from bounty.services.deployments.tips import deploy_due, deploy_tip, manifest_of, set_automatic
from bounty.services.merges import merge
from bounty.services.reviews import review
from bounty.services.series.contents import Contents
from bounty.services.transitions import note
from bounty.services.trees import blob_store, load_tree, store_tree
from gainshare.capacity.models import Deployment, DeploymentState, ServedModel
from tests.bounty.bounty_world import World, diff_of_line, make_user

MODEL = "tiny"
DIFF = diff_of_line(3, "step_3 = 33")
NEXT = diff_of_line(5, "step_5 = 55")


@pytest.fixture
def world(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The installed tree is the one that the world's lineage began with, and the pool serves a model."""
    installed = load_tree(world.tree)
    monkeypatch.setattr(tips, "shipped_tree", lambda store: installed)
    ServedModel.objects.create(name=MODEL)
    return world


@pytest.fixture
def merged(world: World) -> Submission:
    return world.vested(world.ann, DIFF)


def tip_of(world: World) -> str:
    return Lineage.objects.get(pk=world.lineage.pk).tip_id


def accepted_twice(world: World, diff: str) -> Submission:
    """A merged gain that two maintainers have accepted."""
    submission = world.confirmed(world.bob, diff)
    for reviewer in (world.ruth, make_user("rosa", "maintainer")):
        review(actor=reviewer, submission_id=submission.pk, decision="accept")
    return merge(actor=world.mira, submission_id=submission.pk)


def serve(tree: str) -> None:
    """The tree serves now, by a deployment that has ended well."""
    Deployment.objects.update(state=DeploymentState.SUPERSEDED)
    Deployment.objects.create(model=MODEL, tree=tree, reason="test", state=DeploymentState.SERVING)


def test_a_maintainer_deploys_the_tip_and_repeating_it_asks_once(world: World, merged: Submission) -> None:
    made = deploy_tip(actor=world.mira, name=world.lineage.name, model=MODEL)
    assert (made.model, made.tree, made.lineage) == (MODEL, tip_of(world), world.lineage.name)
    assert made.tree == merged.candidate_tree_id and made.requested_by == world.mira
    assert deploy_tip(actor=world.ruth, name=world.lineage.name, model=MODEL).pk == made.pk
    assert Deployment.objects.count() == 1


def test_no_one_else_deploys(world: World, merged: Submission) -> None:
    for act in (
        lambda: deploy_tip(actor=world.ann, name=world.lineage.name, model=MODEL),
        lambda: set_automatic(actor=world.ann, name=world.lineage.name, model=MODEL, is_on=True),
    ):
        with pytest.raises(NotAllowed):
            act()
    assert not Deployment.objects.exists() and not AutomaticDeploy.objects.exists()


def test_unknown_names_are_said(world: World) -> None:
    with pytest.raises(NotFound, match="no lineage nowhere"):
        deploy_tip(actor=world.mira, name="nowhere", model=MODEL)
    with pytest.raises(NotFound, match="No served model is named other"):
        set_automatic(actor=world.mira, name=world.lineage.name, model="other", is_on=True)


def changed(world: World, path: str, text: str | None) -> Tree:
    """The world's first tree with one file changed, or without it."""
    store = blob_store()
    kept = [entry for entry in load_tree(world.tree).entries if entry.path != path]
    new = [] if text is None else [TreeEntry(path, 0o644, store.put(text.encode()))]
    return Tree(tuple(sorted([*kept, *new])))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("model/serving/metering/usage.py", "FREE = True\n"),  # counts tokens
        ("model/serving/metering.py", "FREE = True\n"),  # would be loaded in its place
        ("model/command_errors.py", None),
    ],
)
def test_a_tip_whose_protected_files_are_not_the_installed_ones_never_serves(
    world: World, path: str, text: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A push can bring any tree, and an old base has old files: neither may decide a charge."""
    if text is None:
        monkeypatch.setattr(tips, "shipped_tree", lambda store: changed(world, path, "INSTALLED = True\n"))
    tip = store_tree(tree=changed(world, path, text))
    Lineage.objects.filter(pk=world.lineage.pk).update(tip=tip)
    with pytest.raises(WrongState, match="no patch may change it"):
        deploy_tip(actor=world.mira, name=world.lineage.name, model=MODEL)
    assert not Deployment.objects.exists()


def test_nothing_is_deployed_by_itself_before_a_maintainer_says_so(world: World) -> None:
    accepted_twice(world, DIFF)
    assert deploy_due() == 0
    set_automatic(actor=world.mira, name=world.lineage.name, model=MODEL, is_on=False)
    assert deploy_due() == 0 and not Deployment.objects.exists()


def test_a_tip_with_two_acceptances_is_deployed_by_itself_once(world: World) -> None:
    set_automatic(actor=world.mira, name=world.lineage.name, model=MODEL, is_on=True)
    serve(world.tree.pk)
    merged = accepted_twice(world, DIFF)
    assert deploy_due() == 1
    made = Deployment.objects.get(tree=merged.candidate_tree_id)
    assert made.requested_by is None and "by itself" in made.reason
    assert deploy_due() == 0
    Deployment.objects.filter(pk=made.pk).update(state=DeploymentState.REFUSED)
    assert deploy_due() == 0  # what the canary refused is not tried again by itself


def test_a_tree_that_no_merge_led_to_is_not_deployed_by_itself(world: World) -> None:
    """The lineage's first tree was uploaded, and no one has accepted it."""
    set_automatic(actor=world.mira, name=world.lineage.name, model=MODEL, is_on=True)
    assert deploy_due() == 0 and not Deployment.objects.exists()
    assert "No merge led to the tip" in AutomaticDeploy.objects.get().problem
    assert deploy_tip(actor=world.mira, name=world.lineage.name, model=MODEL).tree == world.tree.pk


def test_merges_on_top_of_a_first_tree_that_never_served_are_not_deployed_by_themselves(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their diffs were accepted, and the rest of the tree was not: it is not the installed one."""
    installed = changed(world, "model/layers/moe/router.py", "gate = 'installed'\n")
    monkeypatch.setattr(tips, "shipped_tree", lambda store: installed)
    accepted_twice(world, DIFF)
    set_automatic(actor=world.mira, name=world.lineage.name, model=MODEL, is_on=True)
    assert deploy_due() == 0 and not Deployment.objects.exists()
    assert "began with an uploaded tree" in AutomaticDeploy.objects.get().problem
    serve(world.tree.pk)  # a maintainer deployed it
    assert deploy_due() == 1


def test_merges_on_top_of_the_installed_tree_are_deployed_by_themselves(world: World) -> None:
    accepted_twice(world, DIFF)
    set_automatic(actor=world.mira, name=world.lineage.name, model=MODEL, is_on=True)
    assert deploy_due() == 1


def test_one_acceptance_is_not_enough_and_the_lineage_says_so(world: World) -> None:
    set_automatic(actor=world.mira, name=world.lineage.name, model=MODEL, is_on=True)
    serve(world.tree.pk)
    merged = world.vested(world.ann, DIFF)
    assert deploy_due() == 0
    setting = AutomaticDeploy.objects.get()
    assert str(merged.pk) in setting.problem and "2 acceptances" in setting.problem
    assert deploy_tip(actor=world.mira, name=world.lineage.name, model=MODEL).tree == merged.candidate_tree_id
    serve(str(merged.candidate_tree_id))
    assert deploy_due() == 1  # it serves: there is nothing left to say
    assert AutomaticDeploy.objects.get().problem == ""


def test_a_tip_that_no_one_measured_is_not_deployed_by_itself(world: World) -> None:
    set_automatic(actor=world.mira, name=world.lineage.name, model=MODEL, is_on=True)
    serve(world.tree.pk)
    pushed = store_tree(tree=changed(world, "model/layers/moe/experts.py", "step_1 = 0\n"))
    Lineage.objects.filter(pk=world.lineage.pk).update(tip=pushed)
    assert deploy_due() == 0
    assert "not reached by measured merges" in AutomaticDeploy.objects.get().problem
    assert deploy_tip(actor=world.mira, name=world.lineage.name, model=MODEL).tree == pushed.pk


def test_the_merges_between_two_trees_are_told_in_order(world: World, merged: Submission) -> None:
    second = accepted_twice(world, NEXT)
    lineage = Lineage.objects.get(pk=world.lineage.pk)
    found = Contents(lineage).merges_between
    assert found(tip=lineage.tip_id, until=world.tree.pk) == [merged, second]
    assert found(tip=lineage.tip_id, until=str(merged.candidate_tree_id)) == [second]
    assert found(tip=lineage.tip_id, until=lineage.tip_id) == []
    assert found(tip=lineage.tip_id, until="0" * 64) is None


def test_a_host_gets_the_manifest_of_a_stored_tree_only(world: World) -> None:
    assert manifest_of(world.tree.pk) == world.tree.manifest
    assert manifest_of("0" * 64) is None


def merged_gain(world: World, diff: str, suite: str, reviewers: int = 2) -> Submission:
    """A gain of this suite that so many maintainers have accepted, merged."""
    bounty = world.open(title=f"Better {suite}", suite=suite)
    submission = world.confirmed(world.bob, diff, 0.1, bounty)
    for reviewer in (world.ruth, make_user("rosa", "maintainer"))[:reviewers]:
        review(actor=reviewer, submission_id=submission.pk, decision="accept")
    return merge(actor=world.mira, submission_id=submission.pk)


def margin_of(world: World) -> int | None:
    made = deploy_tip(actor=world.mira, name=world.lineage.name, model=MODEL)
    margin: int | None = made.plan["quality_margin_ppm"]
    return margin


def test_a_quality_gain_may_change_answers_within_its_suites_margin(world: World) -> None:
    serve(world.tree.pk)
    merged_gain(world, DIFF, "quality")
    assert margin_of(world) == tips.QUALITY_MARGIN_PPM
    guard = SUITES["quality"].guard
    assert guard is not None
    assert math.log1p(tips.QUALITY_MARGIN_PPM / 1e6) == pytest.approx(guard.margin_log_ppm / 1e6, abs=1e-6)


@pytest.mark.parametrize("suite", ["moe_forward", "decode"])
def test_answers_of_other_gains_must_be_equal(world: World, suite: str) -> None:
    serve(world.tree.pk)
    merged_gain(world, DIFF, suite)
    assert margin_of(world) is None


def test_a_quality_gain_that_serves_already_loosens_nothing_for_the_next_one(world: World) -> None:
    served = merged_gain(world, DIFF, "quality")
    serve(str(served.candidate_tree_id))
    merged_gain(world, NEXT, "decode")
    assert margin_of(world) is None


def test_a_quality_gain_with_a_push_in_between_loosens_nothing(world: World) -> None:
    """What a push brought was not measured, so its answers are compared."""
    serve(world.tree.pk)
    merged_gain(world, DIFF, "quality")
    lineage = Lineage.objects.get(pk=world.lineage.pk)
    old, pushed = lineage.tip_id, store_tree(tree=changed(world, "model/layers/moe/router.py", "gate = 1\n"))
    Lineage.objects.filter(pk=lineage.pk).update(tip=pushed)
    note(lineage, old=old, new=pushed.pk, reason="pushed")
    assert margin_of(world) is None


def test_a_quality_gain_after_a_tree_of_another_lineage_loosens_nothing(world: World) -> None:
    serve("f" * 64)
    merged_gain(world, DIFF, "quality")
    assert margin_of(world) is None


@pytest.mark.parametrize("suites", [("quality", "decode"), ("decode", "quality")])
def test_a_quality_gain_with_others_is_not_deployed_by_itself(world: World, suites: tuple[str, str]) -> None:
    """Nothing would compare the answers of the others: one could answer otherwise at one size of a batch."""
    serve(world.tree.pk)
    for diff, suite in zip((DIFF, NEXT), suites, strict=True):
        merged_gain(world, diff, suite)
    set_automatic(actor=world.mira, name=world.lineage.name, model=MODEL, is_on=True)
    assert deploy_due() == 0
    assert "suite quality" in AutomaticDeploy.objects.get().problem
    assert margin_of(world) == tips.QUALITY_MARGIN_PPM


def test_a_quality_gain_alone_is_deployed_by_itself(world: World) -> None:
    serve(world.tree.pk)
    merged_gain(world, DIFF, "quality")
    set_automatic(actor=world.mira, name=world.lineage.name, model=MODEL, is_on=True)
    assert deploy_due() == 1
