"""Page that explains judging and the terms of the other pages."""

from collections.abc import Mapping
from dataclasses import dataclass

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from benchmarks.judging.verdicts import VerdictKind

V = VerdictKind
MEANINGS: Mapping[VerdictKind, str] = {
    V.GAIN: "Faster by more than the smallest gain that is paid, or a bug that is fixed.",
    V.NO_GAIN: "No gain was found that is large enough to be paid. Look for a larger one.",
    V.REGRESSION: "Slower than before. The plot on the submission's page shows each pair.",
    V.WRONG_OUTPUT: "An output differed from the old code's output. The reason names the case and the error.",
    V.QUALITY_LOSS: "The model's loss on held-out text became worse.",
    V.BUILD_FAILED: "The patched tree did not build or import. Read the log.",
    V.PATCH_REJECTED: "The diff cannot be parsed, does not apply, or changes a forbidden file. Nothing was run.",
    V.POLICY_VIOLATION: "While it ran, it did something that is forbidden, such as opening a network connection.",
    V.TIMEOUT: "It took longer than the time limit of the suite or of a build.",
    V.RESOURCE_LIMIT: "It exceeded the suite's memory limit or another limit.",
    V.SUSPICIOUS: "The result cannot be trusted: a control failed or a rule was broken. A maintainer decides.",
    V.INFRASTRUCTURE_ERROR: "The platform failed, not the patch. The run is repeated and does not count as an attempt.",
}


@dataclass(frozen=True, slots=True)
class NamedVerdict:
    """A verdict and its display name."""

    value: str
    words: str


@require_GET
def how(request: HttpRequest) -> HttpResponse:
    """Page with the way from a diff to credits, all verdicts, and a glossary."""
    verdicts = [(NamedVerdict(kind.value, kind.value.replace("_", " ")), MEANINGS[kind]) for kind in V]
    return render(request, "bounty/how.html", {"verdicts": verdicts})
