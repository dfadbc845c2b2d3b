"""Deploy a lineage's tip: a maintainer asks, or the lineage's setting does after each merge."""

from __future__ import annotations

from typing import Any

from benchmarks.patch.deployable import check_deployable
from benchmarks.patch.policy import PolicyViolation, load_policy
from benchmarks.patch.trees import shipped_tree
from bounty.errors import NotFound, WrongState
from bounty.models import AutomaticDeploy, Lineage, StoredTree, Submission
from bounty.services.awards.lifecycle import acceptances
from bounty.services.permissions import require_maintainer
from bounty.services.series.contents import Contents
from bounty.services.trees import blob_store, load_tree, require_present_layout
from gainshare.accounts.errors import DomainError
from gainshare.accounts.models import User
from gainshare.capacity.deployments.requests import request_deployment
from gainshare.capacity.deployments.serving import serving_tree
from gainshare.capacity.models import Deployment, ServedModel

DEPLOY_ACCEPTANCES = 2  # of each merged diff that a lineage's setting deploys
QUALITY = "quality"  # the suite whose gains may change answers
QUALITY_MARGIN_PPM = 10_000  # of held-out loss, as that suite guards other gains (ln 1.01)
MAX_PROBLEM = 300
RENEW = "Renew the lineage with `gainshare lineages renew`."


def deploy_tip(*, actor: User, name: str, model: str) -> Deployment:
    """Ask for the tip of the lineage ``name`` to serve ``model``. Repeating it while it is under way returns it.

    Raises NotFound, NotAllowed, WrongState for a tip that may not serve, and CapacityError while another deployment of
    the model is under way.
    """
    require_maintainer(actor, "deploy")
    lineage = find_lineage(name)
    return _ask(lineage, model, actor=actor, reason=f"{actor.username} deployed the tip of {lineage.name}")


def set_automatic(*, actor: User, name: str, model: str, is_on: bool) -> AutomaticDeploy:
    """Have each tip of the lineage deployed for ``model`` from now on, or no longer. Raises NotFound, NotAllowed."""
    require_maintainer(actor, "change what is deployed by itself")
    lineage = find_lineage(name)
    if is_on and not ServedModel.objects.filter(name=model).exists():
        raise NotFound(f"No served model is named {model}. `gainshare scale list` shows them.")
    setting, _ = AutomaticDeploy.objects.update_or_create(
        lineage=lineage,
        defaults={
            "model": model,
            "is_on": is_on,
            "problem": "",
            "asked_tree": serving_tree(model) if is_on else "",
            "changed_by": actor,
        },
    )
    return setting


def deploy_due() -> int:
    """Ask for the tips that settings deploy and that were not asked for yet; return their number. For beat.

    Each tip is asked for once: what the canary refused is not tried again by itself.
    """
    asked = 0
    for setting in AutomaticDeploy.objects.filter(is_on=True).select_related("lineage"):
        if setting.lineage.tip_id == setting.asked_tree:
            continue
        try:
            _ask_by_setting(setting)
        except DomainError as refused:
            _note_problem(setting, refused.message)
        else:
            asked += 1
    return asked


def manifest_of(tree: str) -> dict[str, Any] | None:
    """Manifest of a stored tree, for the hosts that are to run it; None for an unknown one."""
    stored = StoredTree.objects.filter(hash=tree).first()
    return None if stored is None else load_tree(stored).to_manifest()


def find_lineage(name: str) -> Lineage:
    """Raises NotFound."""
    found = Lineage.objects.filter(name=name).select_related("tip", "origin").first()
    if found is None:
        raise NotFound(f"There is no lineage {name[:60]}. `gainshare lineages list` shows them.")
    return found


def _ask_by_setting(setting: AutomaticDeploy) -> None:
    lineage = setting.lineage
    merged = _merges_since_served(lineage, setting.model)
    if merged is None:
        raise WrongState(
            "The tip was not reached by measured merges alone, so it is not deployed by itself. A maintainer can "
            "deploy it."
        )
    _require_reviewed(lineage, setting.model, merged)
    if QUALITY in (suites := {one.bounty.suite for one in merged}) and len(suites) > 1:
        raise WrongState(
            f"A gain of the suite {QUALITY} may change answers, so the canary would not compare those of the other "
            "gains merged with it. The tip is not deployed by itself; a maintainer can deploy it."
        )
    _ask(lineage, setting.model, actor=None, reason=f"{lineage.name} deploys its tip by itself")
    AutomaticDeploy.objects.filter(pk=setting.pk).update(asked_tree=lineage.tip_id, problem="")


def _require_reviewed(lineage: Lineage, model: str, merged: list[Submission]) -> None:
    """Raises WrongState unless all of the tip was deployed by a maintainer, or is installed, or was accepted often enough."""
    serving = serving_tree(model)
    if not merged and lineage.tip_id != serving:
        raise WrongState(
            "No merge led to the tip: it is the tree that the lineage began with, which no one has accepted, so it is "
            "not deployed by itself. A maintainer can deploy it."
        )
    if not serving and lineage.origin_id != shipped_tree(blob_store()).hash:
        raise WrongState(
            "The lineage began with an uploaded tree that no one has accepted and that never served, so the tip is not "
            "deployed by itself. A maintainer can deploy it; later tips then are."
        )
    lacking = next((one for one in merged if acceptances(one)[0] < DEPLOY_ACCEPTANCES), None)
    if lacking is not None:
        raise WrongState(
            f"The merge of submission {lacking.pk} has fewer than {DEPLOY_ACCEPTANCES} acceptances, so the tip is not "
            "deployed by itself. A maintainer can deploy it; bounties that ask for two reviewers get tips that are."
        )


def _note_problem(setting: AutomaticDeploy, problem: str) -> None:
    text = problem[:MAX_PROBLEM]
    AutomaticDeploy.objects.filter(pk=setting.pk).exclude(problem=text).update(problem=text)


def _ask(lineage: Lineage, model: str, *, actor: User | None, reason: str) -> Deployment:
    _require_deployable(lineage)
    return request_deployment(
        model=model,
        tree=lineage.tip_id,
        lineage=lineage.name,
        actor=actor,
        reason=reason,
        quality_margin_ppm=_quality_margin(lineage, model),
    )


def _require_deployable(lineage: Lineage) -> None:
    """Raises WrongState for a tip that may not serve, OldLayout for one that cannot be measured either."""
    if reason := lineage.stop_reason or lineage.merge_stop_reason:
        raise WrongState(f"The lineage is stopped, so its tip is not deployed: {reason}")
    require_present_layout(lineage.tip_id, instead=RENEW)
    try:
        check_deployable(load_tree(lineage.tip), shipped_tree(blob_store()), load_policy())
    except PolicyViolation as refused:
        raise WrongState(f"The tip of {lineage.name} may not serve: {refused.message}") from None


def _quality_margin(lineage: Lineage, model: str) -> int | None:
    """How much held-out loss may grow, where a gain between them may change answers; else None: they must be equal."""
    changes = any(one.bounty.suite == QUALITY for one in _merges_since_served(lineage, model) or ())
    return QUALITY_MARGIN_PPM if changes else None


def _merges_since_served(lineage: Lineage, model: str) -> list[Submission] | None:
    """The merges between the tree that serves ``model``, or the lineage's first one, and the tip; None: something else, too."""
    served = serving_tree(model) or lineage.origin_id
    return Contents(lineage).merges_between(tip=lineage.tip_id, until=served)
