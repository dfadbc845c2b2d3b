"""Runners for the pool's page and its REST resource. Named in settings as CAPACITY_RUNNERS."""

from bounty.models import OPEN_RUN_STATES, Evidence, Run, RunKind, Runner, RunnerState
from bounty.services.runners.device_waits import is_waiting
from gainshare.capacity.pool.runners import RunnerRow

WAITING = "waiting for its device"
# What a run is called before everybody: which kind of run a submission has is sealed until it is decided.
OPEN_KINDS = {
    RunKind.AA: "an A/A run",
    RunKind.TIP: "a check of a merged tree",
    RunKind.REPRODUCTION: "a reproduction",
}
SEALED_KIND = "a submission"


def pool_runners() -> list[RunnerRow]:
    """Every runner that is not retired, by hardware and name: three queries."""
    runners = list(Runner.objects.exclude(state=RunnerState.RETIRED).order_by("hardware", "name"))
    busy = dict(
        Run.objects.filter(runner__in=runners, state__in=OPEN_RUN_STATES).values_list("runner", "kind")
    )
    newest = Evidence.objects.filter(runner__in=runners).order_by("runner", "-pk").distinct("runner")
    levels = dict(newest.values_list("runner", "sandbox_level"))
    return [
        RunnerRow(
            name=runner.name,
            hardware=runner.hardware,
            state=runner.state,
            busy_with=_busy_with(runner, busy.get(runner.pk)),
            sandbox_level=levels.get(runner.pk, ""),
            last_seen_at=runner.last_seen_at,
            device_host=runner.device_host,
            device=runner.device_number,
        )
        for runner in runners
    ]


def _busy_with(runner: Runner, kind: str | None) -> str:
    if kind is None:
        return WAITING if is_waiting(runner) else ""
    return OPEN_KINDS.get(RunKind(kind), SEALED_KIND)
