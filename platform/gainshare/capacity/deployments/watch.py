"""Watch what serves by the gateway's own counts, and roll it back by itself where the rules of `health` say so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from statistics import median

from django.db.models import QuerySet

from gainshare.capacity.deployments.handover import original
from gainshare.capacity.deployments.health import Outcomes, TokenTime, fails_more, slowness, stays_slow
from gainshare.capacity.deployments.rollback import roll_back_by_itself
from gainshare.capacity.hosts.nodes import OF_ITS_HOST
from gainshare.capacity.models import Deployment, DeploymentState, Node, NodeWindow, ServedModel
from gainshare.capacity.routing.rates import WINDOW_S

Windows = QuerySet[NodeWindow]

WINDOW = timedelta(seconds=WINDOW_S)
FAILURES_OF = timedelta(minutes=10)  # of the new tree: the latest
SLOW_FOR = timedelta(minutes=5)
BEFORE_OF = timedelta(minutes=30)  # of the tree before: the last ones that it served


def watch_all(now: datetime) -> int:
    """Look at every serving deployment; return how many are rolled back. For beat."""
    serving = Deployment.objects.filter(
        state=DeploymentState.SERVING, is_first=False, is_rollback=False, watch_ended_at=None
    )  # before a first one, nothing answered
    count = 0
    for deployment in serving.select_related("before"):
        if reason := why_rolled_back(deployment, now):
            count += roll_back_by_itself(deployment, reason, now)
    return count


def why_rolled_back(deployment: Deployment, now: datetime) -> str:
    """Why the deployment has to go; empty: it stays."""
    served = ServedModel.objects.filter(name=deployment.model).first()
    assert deployment.serving_at is not None, "it serves"
    if served is None:
        return ""
    if served.rolls_back_on_failures and (reason := _failing(deployment, deployment.serving_at, now)):
        return reason
    if served.rolls_back_slower_percent is not None:
        return _slow(deployment, deployment.serving_at, now, served.rolls_back_slower_percent)
    return ""


def _failing(deployment: Deployment, serving_at: datetime, now: datetime) -> str:
    since = max(serving_at - WINDOW, now - FAILURES_OF)  # the window of the switch counts
    new = _outcomes(_windows(deployment, deployment.tree, since, now))
    before = _outcomes(_before(deployment, serving_at))
    if not fails_more(new, before):
        return ""
    return (
        f"{new.failed} of {new.failed + new.answered} requests failed, {before.failed} of "
        f"{before.failed + before.answered} with the tree before"
    )


def _slow(deployment: Deployment, serving_at: datetime, now: datetime, slower_percent: int) -> str:
    rows = deployment.result.get("batch_times") or ()
    times = {int(row["batch"]): int(row["candidate_ns"]) for row in rows}
    times_before = {int(row["batch"]): int(row["served_ns"]) for row in rows}
    since = now - SLOW_FOR - WINDOW  # windows are whole, and the last one may go on
    if not times or since < serving_at:
        return ""
    ratios = [
        slowness(window, times)
        for window in _token_times(_windows(deployment, deployment.tree, since, now - WINDOW))
    ]
    usual = [
        ratio
        for window in _token_times(_before(deployment, serving_at))
        if (ratio := slowness(window, times_before)) is not None
    ]
    if not stays_slow(ratios, usual=median(usual) if usual else 1.0, slower_percent=slower_percent):
        return ""
    worst = min(ratio for ratio in ratios if ratio is not None)
    return (
        f"tokens took at least {round(100 * worst)} % of the time that the canary found, "
        f"for {round(SLOW_FOR.total_seconds())} s"
    )


def _before(deployment: Deployment, serving_at: datetime) -> Windows:
    """The last windows of the tree before, up to the switch."""
    source = original(deployment.before)
    tree = "" if source is None else source.tree
    return _windows(deployment, tree, serving_at - BEFORE_OF, serving_at - WINDOW)


def _windows(deployment: Deployment, tree: str, since: datetime, until: datetime) -> Windows:
    """Windows between these times of the model's nodes with this tree. Nodes whose host went say nothing of the tree."""
    nodes = Node.objects.filter(model=deployment.model, tree=tree, ready_at__isnull=False)
    nodes = nodes.exclude(end_reason__startswith=OF_ITS_HOST)
    keys = [str(pk) for pk in nodes.exclude(ended_at__lt=since).values_list("pk", flat=True)]
    return NodeWindow.objects.filter(
        model=deployment.model, node__in=keys, window_at__gte=since, window_at__lte=until
    )


def _outcomes(windows: Windows) -> Outcomes:
    rows = list(windows.values_list("requests", "failures"))
    return Outcomes(sum(answered for answered, _ in rows), sum(failed for _, failed in rows))


def _token_times(windows: Windows) -> Sequence[list[TokenTime]]:
    """What each window has, by node, oldest first. The mean number of answers is their time over the window's."""
    of_window: dict[datetime, list[TokenTime]] = defaultdict(list)
    rows = windows.order_by("window_at").values_list("window_at", "decode_tokens", "decode_ms", "busy_ms")
    for at, tokens, decode_ms, busy_ms in rows:
        of_window[at].append(TokenTime(tokens, decode_ms, busy_ms / (1000 * WINDOW_S)))
    return list(of_window.values())
