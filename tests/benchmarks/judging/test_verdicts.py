"""Verdicts, the catalogue of suites, and that all of it loads without torch and Django."""

import math
import subprocess
import sys

import pytest

from benchmarks.catalogue import BUG, SUITES
from benchmarks.judging.verdicts import Verdict, VerdictKind


def test_the_verdicts_are_the_twelve_of_the_design() -> None:
    assert {kind.value for kind in VerdictKind} == {
        "gain",
        "no_gain",
        "regression",
        "wrong_output",
        "quality_loss",
        "build_failed",
        "patch_rejected",
        "timeout",
        "resource_limit",
        "policy_violation",
        "suspicious",
        "infrastructure_error",
    }


def test_verdicts_cannot_be_changed() -> None:
    verdict = Verdict(VerdictKind.NO_GAIN, "No.")
    with pytest.raises(AttributeError):
        verdict.kind = VerdictKind.GAIN  # type: ignore[misc]  # on purpose


@pytest.mark.parametrize("name", SUITES)
def test_suites_are_described_for_people(name: str) -> None:
    suite = SUITES[name]
    assert suite.name == name
    assert suite.title
    if suite.presets:
        assert {"demo", "standard"} <= set(suite.presets) | (
            {"demo"} if suite is BUG else set()
        )  # has one size
    else:
        assert suite.guard is not None  # no bounty pays for it, and it guards the others' gains
    assert all(preset.name == key and preset.description for key, preset in suite.presets.items())
    assert suite.worst_case_log_ppm < 0 < suite.minimum_effect_log_ppm < suite.cap_log_ppm


def test_the_minimum_effect_is_one_percent() -> None:
    assert SUITES["moe_forward"].minimum_effect_log_ppm == math.ceil(math.log(1.01) * 1e6)


def test_rules_load_without_torch_and_django() -> None:
    modules = (
        "catalogue faults patch.patches patch.policy patch.trees judging.verdicts report power statistics.gate statistics.confirm "
        "statistics.controls statistics.diagnostics evidence.document evidence.verify evidence.signing"
    )
    program = (
        "import sys, importlib\n"
        f"for name in {modules.split()!r}: importlib.import_module('benchmarks.' + name)\n"
        "print([name for name in ('torch', 'django', 'rest_framework', 'celery') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
