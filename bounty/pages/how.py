"""A page that explains the judging and the words of the other pages."""

from collections.abc import Mapping
from dataclasses import dataclass

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from benchmarks.judging.verdicts import VerdictKind

V = VerdictKind
MEANINGS: Mapping[VerdictKind, str] = {
    V.GAIN: "Faster by more than the smallest gain that is paid, or a bug that is mended.",
    V.NO_GAIN: "No difference of a size worth paying was seen. Find a bigger one.",
    V.REGRESSION: "Slower than before. The plot on the submission's page shows each pair.",
    V.WRONG_OUTPUT: "An answer differed from the old code's. The reason names the case and the error.",
    V.QUALITY_LOSS: "The model answers held-out text worse than before.",
    V.BUILD_FAILED: "The patched tree did not import or build. Read the log.",
    V.PATCH_REJECTED: "The diff cannot be read, does not apply, or touches what a patch may not. Nothing was run.",
    V.POLICY_VIOLATION: "While it ran, it did what no patch may do, such as opening a network connection.",
    V.TIMEOUT: "It ran out of the suite's time, or of what a build may take.",
    V.RESOURCE_LIMIT: "It went over the suite's memory or another limit.",
    V.SUSPICIOUS: "A control failed or the rules of measuring were broken. A maintainer looks at it.",
    V.INFRASTRUCTURE_ERROR: "The platform failed, not the patch. It is tried again and costs no attempt.",
}


@dataclass(frozen=True, slots=True)
class NamedVerdict:
    """A verdict with its name as badges show it."""

    value: str
    words: str


@require_GET
def how(request: HttpRequest) -> HttpResponse:
    """From a diff to credits, every verdict, and a glossary."""
    verdicts = [(NamedVerdict(kind.value, kind.value.replace("_", " ")), MEANINGS[kind]) for kind in V]
    return render(request, "bounty/how.html", {"verdicts": verdicts})
