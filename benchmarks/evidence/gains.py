"""What a measured gain needs to be believed: outputs that were checked, control pairs, no bad case. Pure.

Gates and confirmations share these rules.
"""

from types import ModuleType
from typing import Any

from benchmarks.evidence import partner, partner_2
from benchmarks.evidence.samples import PPB_PER_PPM, Samples
from benchmarks.evidence.schema import SCHEMA, SCHEMA_2
from benchmarks.judging.verdicts import Verdict, VerdictKind
from benchmarks.statistics.median import median
from benchmarks.statistics.units import floor_ppm, nats, signed_percent

_PARTNERS = {SCHEMA: partner, SCHEMA_2: partner_2}  # the rules about control pairs, by the document's schema


def partner_rules(document: dict[str, Any]) -> ModuleType:
    """The rules about control pairs that the document was signed under."""
    return _PARTNERS[document["schema"]]


def units(document: dict[str, Any], samples: Samples) -> list[float]:
    """Log ratio of each unit in nats, each case's held at the suite's cap."""
    return samples.units(document["suite"]["policy"]["cap_log_ppm"] * PPB_PER_PPM)


def unchecked(document: dict[str, Any], pairs: int) -> Verdict | None:
    """Find a judge that did not compare every timed output of the candidate, or none with the oracle."""
    earlier = [sealed["document"] for sealed in document.get("continues", [])]
    measured = [*(record["pair"] for record in earlier), *document["pairs"]]
    timed = sum(side == "candidate" for pair in measured for side, _ns in pair["calls"])
    checks = [*(record["checks"] for record in earlier), document["checks"]]
    compared, with_oracle = (
        sum(each[name] for each in checks) for name in ("outputs_checked", "oracle_checked")
    )
    if compared >= timed and with_oracle > 0:
        return None
    return Verdict(
        VerdictKind.INFRASTRUCTURE_ERROR,
        f"Only {compared} of {timed} outputs were checked, {with_oracle} against the oracle, so nothing is decided. "
        "The run is queued again.",
        pairs=pairs,
    )


def lacks_controls(document: dict[str, Any], samples: Samples, units: int) -> bool:
    """Say whether a gain needs more control pairs. In an A/A run every pair is one."""
    if document["run"]["kind"] == "aa":
        return False
    return bool(partner_rules(document).lacks_controls(document, samples, units))


def doubt(document: dict[str, Any], samples: Samples) -> tuple[VerdictKind, str] | None:
    """Find what contradicts a measured gain: one bad case, the cap, the control pairs."""
    policy = document["suite"]["policy"]
    for case, values in sorted(samples.by_case.items()):
        middle = floor_ppm(median(list(map(nats, values))))
        if middle < policy["worst_case_log_ppm"]:
            return VerdictKind.NO_GAIN, (
                f"Faster on the whole, but case {case} is at {signed_percent(middle)}, and no case may be below "
                f"{signed_percent(policy['worst_case_log_ppm'])}. Make that case faster, then submit again."
            )
        if middle >= policy["cap_log_ppm"]:
            return VerdictKind.SUSPICIOUS, (
                f"Case {case} is at {signed_percent(middle)}, at or above the suite's cap of "
                f"{signed_percent(policy['cap_log_ppm'])}. A maintainer will check how the patch does it."
            )
    if document["run"]["kind"] == "aa":
        return None
    reason = partner_rules(document).doubt(document, samples)
    return None if reason is None else (VerdictKind.SUSPICIOUS, reason)
