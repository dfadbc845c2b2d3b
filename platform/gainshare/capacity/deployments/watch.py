"""Watch what serves by the gateway's own counts, and roll it back by itself where `health` or `slowness` says so."""

from __future__ import annotations

from datetime import datetime, timedelta

from gainshare.capacity.deployments.handover import original
from gainshare.capacity.deployments.health import fails_more
from gainshare.capacity.deployments.rollback import roll_back_by_itself, why_tried
from gainshare.capacity.deployments.slowness import percent_of, stays_slow
from gainshare.capacity.deployments.usual import usual_for
from gainshare.capacity.deployments.windows import DECODE, WINDOW, Clocked, outcomes, paces, windows_of
from gainshare.capacity.models import Deployment, DeploymentState, ServedModel

FAILURES_OF = timedelta(minutes=10)  # of the new tree: the latest
BEFORE_OF = timedelta(minutes=30)  # of the tree before: the last ones that it served
SHORT, LONG = timedelta(minutes=5), timedelta(hours=2)  # that work took too long


def watch_all(now: datetime) -> int:
    """Look at every serving deployment; return how many are rolled back. For beat.

    One whose rollback failed is rolled back again later, for the reason that was found first.
    """
    serving = Deployment.objects.filter(
        state=DeploymentState.SERVING, is_first=False, is_rollback=False
    )  # before a first one, nothing answered
    count = 0
    for deployment in serving.select_related("before"):
        usual_for(deployment, now)  # kept where slow trees are not rolled back, too: for the next deployment
        if reason := why_rolled_back(deployment, now):
            count += roll_back_by_itself(deployment, reason, now)
    return count


def why_rolled_back(deployment: Deployment, now: datetime) -> str:
    """Why the deployment has to go; empty: it stays."""
    served = ServedModel.objects.filter(name=deployment.model).first()
    assert deployment.serving_at is not None, "it serves"
    if served is None:
        return ""
    slower_percent = served.rolls_back_slower_percent
    if (served.rolls_back_on_failures or slower_percent is not None) and (reason := why_tried(deployment)):
        return reason
    if served.rolls_back_on_failures and (reason := _failing(deployment, deployment.serving_at, now)):
        return reason
    return "" if slower_percent is None else _slow(deployment, deployment.serving_at, now, slower_percent)


def _failing(deployment: Deployment, serving_at: datetime, now: datetime) -> str:
    since = max(serving_at - WINDOW, now - FAILURES_OF)  # the window of the switch counts
    new = outcomes(windows_of(deployment.model, deployment.tree, since, now))
    source = original(deployment.before)
    tree = "" if source is None else source.tree
    before = outcomes(windows_of(deployment.model, tree, serving_at - BEFORE_OF, serving_at - WINDOW))
    if not fails_more(new, before):
        return ""
    return (
        f"{new.failed} of {new.failed + new.answered} requests failed, {before.failed} of "
        f"{before.failed + before.answered} with the tree before"
    )


def _slow(deployment: Deployment, serving_at: datetime, now: datetime, slower_percent: int) -> str:
    short = now - SHORT - WINDOW  # windows are whole, and the last one may go on
    if short < serving_at:
        return ""
    all_usual = usual_for(deployment, now)
    since = max(now - LONG - WINDOW, serving_at)
    windows = windows_of(deployment.model, deployment.tree, since, now - WINDOW)
    for line, found in paces(windows, Clocked.of(deployment, "candidate")).items():
        usual = all_usual.get(line)
        if usual is None:
            continue
        latest = [pace for at, pace in found.items() if at >= short]
        for span, looked_at, is_long in ((SHORT, latest, False), (LONG, list(found.values()), True)):
            if stays_slow(looked_at, usual=usual, slower_percent=slower_percent, is_long=is_long):
                what = "tokens of answers" if line == DECODE else "prompts"
                lasted = min(span, now - serving_at).total_seconds()
                return (
                    f"{what} took {percent_of(looked_at)} % of the time that the canary found, in {round(lasted)} s; "
                    f"{usual.percent} % is usual here"
                )
    return ""
