"""Terms that a bounty for a bug can have."""

from typing import Any

import pytest
from django.db import IntegrityError, transaction

from bounty.errors import BadRequest
from bounty.models import Bounty
from tests.bounty.bug_world import AWARD, BugWorld


@pytest.fixture
def world(db: None) -> BugWorld:
    return BugWorld()


@pytest.mark.parametrize(
    "terms",
    [
        {"severity": ""},
        {"severity": "awful"},
        {"award_microcredits": None},
        {"award_microcredits": AWARD + 1},
        {"award_microcredits": 0},
        {"reproduction_ppm": 1_000_000},
        {"reproduction_ppm": -1},
        {"rate_microcredits_per_nat": 5},
        {"review_window_s": 60},
    ],
)
def test_terms_that_no_bug_can_have_are_refused(terms: dict[str, Any], world: BugWorld) -> None:
    with pytest.raises(BadRequest):
        world.open_bug(**terms)


def test_a_gains_bounty_has_no_severity(world: BugWorld) -> None:
    with pytest.raises(BadRequest, match="only for bug bounties"):
        world.open(severity="low")


@pytest.mark.parametrize(
    "changed",
    [
        {"award_microcredits": AWARD - 1},
        {"reproduction_ppm": 299_999},
        {"reproduction_ppm": 300_001},
        {"severity": "low"},
        {"award_microcredits": None},
        {"rate_microcredits_per_nat": 1},
        {"escrow_microcredits": AWARD - 1},
    ],
)
def test_the_database_holds_what_a_bug_pays(changed: dict[str, Any], world: BugWorld) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Bounty.objects.filter(pk=world.bug.pk).update(**changed)
