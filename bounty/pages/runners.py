"""Pages of runners: state, history, and maintainers' actions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.safestring import SafeString
from django.views.decorators.http import require_GET

from bounty.models import OPEN_RUN_STATES, NoiseSample, QuarantineCause, Run, Runner, RunnerState
from bounty.pages.noise_plot import NoisePoint, plot_noise
from bounty.pages.progress import counted
from bounty.services.access import Person, sees_course
from bounty.services.runners import maintenance as runner_maintenance
from bounty.services.runners.calibration import noise_limit
from bounty.services.runners.device_waits import is_waiting
from bounty.services.runners.doubts import runs_in_doubt
from bounty.services.runners.false_awards import false_awards
from bounty.services.transitions import history
from gainshare.accounts.errors import DomainError
from gainshare.accounts.models import User
from gainshare.web.forms.typed import Refused, typed_text
from gainshare.web.paging import page_of
from gainshare.web.signed_in import SignedInRequest, signed_in

SHOWN_SAMPLES = 60
SHOWN_ROWS = 20
PER_PAGE = 50
FINGERPRINT_LABELS = {
    "cpu": "Processor",
    "cores": "Cores",
    "memory_bytes": "Memory",
    "kernel": "Kernel",
    "devices": "Devices",
    "harness": "Judge",
}


@dataclass(frozen=True, slots=True)
class Action:
    """One action of a maintainer. `text` is the reason."""

    label: str
    done: str
    run: Callable[[User, str, str], object]


ACTIONS: Mapping[str, Action] = {
    "drain": Action(
        "Drain",
        "The runner gets no new runs.",
        lambda user, name, text: runner_maintenance.drain(actor=user, name=name, reason=text),
    ),
    "resume": Action(
        "Resume",
        "The runner gets runs again.",
        lambda user, name, text: runner_maintenance.resume(actor=user, name=name, reason=text),
    ),
    "quarantine": Action(
        "Quarantine",
        "The runner gets only A/A runs now.",
        lambda user, name, text: runner_maintenance.quarantine(actor=user, name=name, reason=text),
    ),
    "release": Action(
        "Release",
        "The runner is released: its measurements are trusted again.",
        lambda user, name, text: runner_maintenance.release(actor=user, name=name, reason=text),
    ),
    "calibrate": Action(
        "Calibrate",
        "The runner's A/A runs were ordered.",
        lambda user, name, text: runner_maintenance.calibrate(actor=user, name=name),
    ),
}


@dataclass(frozen=True, slots=True)
class Series:
    """Noise history of a runner for one suite and preset."""

    suite: str
    preset: str
    plot: SafeString
    limit_log_ppm: int | None
    last: NoiseSample


def offered_actions(runner: Runner) -> list[tuple[str, Action]]:
    """Actions to offer on the page. The services check the permission again."""
    if runner.state == RunnerState.RETIRED:
        return []
    is_draining = runner.state in (RunnerState.DRAINING, RunnerState.DRAINED)
    names = ["calibrate", "resume" if is_draining else "drain"]
    names.append("quarantine" if runner.quarantine_cause == QuarantineCause.NONE else "release")
    return [(name, ACTIONS[name]) for name in names]


@require_GET
def runner_list(request: HttpRequest) -> HttpResponse:
    """Page of all runners: state, hardware, last seen, present run, latest noise."""
    page = page_of(request, Runner.objects.order_by("hardware", "name"), PER_PAGE)
    shown = list(page.object_list)
    open_runs = Run.objects.filter(runner__in=shown, state__in=OPEN_RUN_STATES)
    runs = {run.runner_id: run for run in open_runs.select_related("submission__bounty")}
    newest = (
        NoiseSample.objects.filter(runner__in=shown)
        .order_by("runner_id", "-created_at")
        .distinct("runner_id")
    )
    last = {sample.runner_id: sample for sample in newest}
    rows = [
        {
            "runner": runner,
            "run": runs.get(runner.pk),
            "is_sealed": runner.pk in runs and not sees_course(request.user, runs[runner.pk]),
            "waits": is_waiting(runner),
            "last": last.get(runner.pk),
        }
        for runner in shown
    ]
    context = {"rows": rows, "page": page, "false_awards": false_awards()}
    return render(request, "bounty/runner_list.html", context)


@require_GET
def runner_detail(request: HttpRequest, name: str) -> HttpResponse:
    """Page of a runner: machine, noise, failures, history, and runs in doubt."""
    return runner_page(request, name)


def runner_page(request: HttpRequest, name: str, refused: Refused | None = None) -> HttpResponse:
    """Page of a runner, with the typed reason of an action that was refused."""
    runner = get_object_or_404(Runner, name=name)
    is_maintainer = isinstance(request.user, User) and request.user.is_maintainer
    run = current_run(runner)
    context = {
        "runner": runner,
        "run": run,
        "is_sealed": run is not None and not sees_course(request.user, run),
        "counted": counted(run) if run is not None else "",
        "waits": is_waiting(runner),
        "series": noise_series(runner),
        "bad": NoiseSample.objects.filter(runner=runner, is_good=False).order_by("-created_at")[:SHOWN_ROWS],
        "failures": shown_failures(runner, request.user),
        "doubts": [run for run in runs_in_doubt(runner) if sees_course(request.user, run)],
        "changes": reversed(history(runner)),
        "machine": machine_facts(runner.fingerprint),
        "actions": offered_actions(runner) if is_maintainer else [],
        "action_names": " ".join(ACTIONS),
        "refused": refused,
    }
    return render(request, "bounty/runner_detail.html", context, status=409 if refused else 200)


def current_run(runner: Runner) -> Run | None:
    """The runner's present run."""
    return runner.runs.filter(state__in=OPEN_RUN_STATES).select_related("submission__bounty").first()


def shown_failures(runner: Runner, person: Person) -> list[dict[str, Any]]:
    """The newest failed attempts. Which run failed is left out where its course is sealed for the person."""
    newest = runner.failures.select_related("run__submission__bounty").order_by("-created_at")[:SHOWN_ROWS]
    return [
        {
            "run_id": failure.run_id,
            "is_sealed": not sees_course(person, failure.run),
            "created_at": failure.created_at,
            "reason": failure.reason,
        }
        for failure in newest
    ]


def noise_series(runner: Runner) -> list[Series]:
    """The runner's noise history since it last changed, one plot for each suite and preset."""
    samples = NoiseSample.objects.filter(runner=runner, created_at__gte=runner.history_since)
    kinds = samples.order_by("suite", "preset").values_list("suite", "preset").distinct()
    found = []
    for suite, preset in kinds:
        newest = list(samples.filter(suite=suite, preset=preset).order_by("-created_at")[:SHOWN_SAMPLES])
        points = [NoisePoint(row.created_at, row.noise_log_ppm, row.fault) for row in reversed(newest)]
        limit = noise_limit(runner=runner, suite=suite, preset=preset)
        plot = plot_noise(points, limit_log_ppm=limit, title=f"{suite}/{preset}")
        found.append(Series(suite, preset, plot, limit, newest[0]))
    return found


def machine_facts(fingerprint: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Labelled values of the fingerprint."""
    return [
        (FINGERPRINT_LABELS.get(name, name.replace("_", " ").capitalize()), _fact(name, value))
        for name, value in fingerprint.items()
    ]


def _fact(name: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value / 2**30:.1f} GiB"
    return str(value)[:16] if name == "harness" else str(value)


@signed_in
def act(request: SignedInRequest, name: str, action: str) -> HttpResponse:
    """Do one action, add a message, and redirect to the runner."""
    chosen = ACTIONS.get(action)
    if chosen is None:
        raise Http404("There is no such action.")
    if request.method != "POST":
        return redirect("runner", name=name)
    reason = typed_text(request)
    try:
        chosen.run(request.user, name, reason)
    except DomainError as error:
        if error.status == 404:
            raise Http404(error.message) from None
        return runner_page(request, name, Refused(action, reason, error.message))
    messages.success(request, chosen.done)
    return redirect("runner", name=name)
