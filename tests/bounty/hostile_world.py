"""A site in which every free text has the maximum length without spaces, and balances have many digits."""

from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from django.db import connection
from django.urls import URLPattern, get_resolver
from django.utils import timezone

from benchmarks.evidence.signing import generate_key
from bounty.models import (
    Bounty,
    Lineage,
    NoiseSample,
    Reproduction,
    Run,
    Runner,
    RunnerFailure,
    RunVerdict,
    Submission,
    Switch,
)
from bounty.services.bounties import close_bounty
from bounty.services.disputes import answer_dispute, file_dispute
from bounty.services.emergency import lift, stop
from bounty.services.reproductions import decline
from bounty.services.reviews import review
from bounty.services.runners.maintenance import calibrate, quarantine
from bounty.services.trees import create_lineage
from gainshare.accounts.models import ApiKey, User
from gainshare.accounts.services import create_api_key
from gainshare.gateway.models import UsageRecord
from gainshare.ledger import services as ledger
from gainshare.ledger.price_book import publish_price
from tests.bounty.bounty_world import diff_of_line
from tests.bounty.bug_world import TEXT, BugWorld

LETTERS = 400
LONG = "w" * LETTERS
NAME = 150  # the longest user name
SLUG = 60  # the longest name of a lineage, a runner, a hardware class
CREDIT = 1_000_000
BALANCE = 1_820_000_499  # 1,820.000499 credits
FORTUNE = 9_223_372_036_854_775_807 // 1000


def long_name(user: User, length: int = NAME) -> User:
    """Give the user a name of this many letters."""
    user.username = f"{user.username}{'w' * length}"[:length]
    user.save(update_fields=["username"])
    return user


class HostileWorld(BugWorld):
    """A site with something on every page, always with long texts; `mira` is a maintainer and staff."""

    gain: Submission

    def __post_init__(self) -> None:
        super().__post_init__()
        for user in (self.mira, self.ruth, self.ann, self.bob):
            long_name(user)
        User.objects.filter(pk=self.mira.pk).update(is_staff=True, email=f"{'w' * 60}@example.org")
        self.mira.refresh_from_db()
        self._manage_runners()
        self._judge()
        self._object()
        self._show_bugs()
        self.submit(self.mira, diff_of_line(4, f"x = '{LONG}'"))
        self._money()
        self._keys_and_usage()
        self._stop()
        self._rewrite()

    def _manage_runners(self) -> None:
        calibrate(actor=self.mira, name=self.runner.name)
        aa = self.judge(0.3, units=12)  # a bad A/A run: quarantined, with a doubt
        self.key = generate_key()
        self.runner, self.token = self.add_runner(self.key)
        quiet, _ = self.add_runner(generate_key(), host="w" * 120)
        quarantine(actor=self.mira, name=quiet.name, reason=LONG)
        RunnerFailure.objects.create(runner=quiet, run=aa, attempt=1, reason=LONG)

    def _judge(self) -> None:
        self.gain = self.confirmed(self.ann, diff_of_line(1, f"x = '{LONG}'"))
        review(actor=self.ruth, submission_id=self.gain.pk, decision="accept", comment=LONG)
        self.submit(self.bob, diff_of_line(2, "x = 2").replace("layers", f"layers/{'w' * 200}"))
        title = "w" * 200
        closed = self.open(title=title, description=LONG, hardware="w" * SLUG, escrow_microcredits=CREDIT)
        close_bounty(bounty_id=closed.pk, reason=LONG, actor=self.mira)
        Bounty.objects.update(title=title, description=LONG)
        create_lineage(actor=self.mira, name="w" * SLUG, base_tree=self.tree.pk)

    def _object(self) -> None:
        slow = self.submit(self.bob, diff_of_line(5, "x = 5"))
        self.gate(slow, -0.3)
        dispute = file_dispute(actor=self.bob, submission_id=slow.pk, text=LONG)
        answer_dispute(actor=self.ruth, dispute_id=dispute.pk, answer="uphold", text=LONG)
        rejected = Submission.objects.filter(submitter=self.bob, state="rejected").first()
        assert rejected is not None
        file_dispute(actor=self.bob, submission_id=rejected.pk, text=LONG)

    def _show_bugs(self) -> None:
        self.adopted(self.ann, f"# {LONG}\n{TEXT}")
        shown = self.adopted(self.bob, f"# {LONG}\n{TEXT}#", self.open_bug(title="w" * 200))
        decline(actor=self.mira, reproduction_id=shown.pk, reason=LONG)

    def _money(self) -> None:
        ledger.fund_treasury(
            transfer_id=uuid4(), amount_microcredits=FORTUNE, memo="w" * 300, actor=self.mira
        )
        ledger.grant_credits(
            transfer_id=uuid4(),
            user=self.mira,
            amount_microcredits=BALANCE,
            source="w" * 40,
            memo="w" * 300,
            expires_at=timezone.now() + timedelta(days=9),
        )
        ledger.open_hold(
            hold_id=uuid4(),
            user=self.mira,
            amount_microcredits=499,
            expires_at=timezone.now() + timedelta(hours=1),
            reference=f"request:{uuid4()}",
        )

    def _keys_and_usage(self) -> None:
        scopes = sorted(self.mira.allowed_scopes)
        for days in (1, None):
            until = None if days is None else timezone.now() + timedelta(days=days)
            create_api_key(user=self.mira, name="w" * 80, scopes=scopes, expires_at=until)
        ApiKey.objects.update(last_used_at=timezone.now())
        price = publish_price(
            model="w" * 120,
            effective_at=timezone.now(),
            cached_input=1,
            fresh_input=FORTUNE,
            output=2,
            actor=self.mira,
        )
        UsageRecord.objects.create(
            user=self.mira,
            key_prefix="0123456789ab",
            endpoint="chat/completions",
            model="w" * 120,
            is_stream=True,
            status="failed",
            max_tokens=2**31 - 1,
            prompt_tokens=2**31 - 1,
            error_code="w" * 64,
            finish_reason="w" * 32,
            price=price,
            hold_microcredits=FORTUNE,
            billed_microcredits=FORTUNE,
            charged_microcredits=FORTUNE,
            bill_lines=[{"item": "fresh_input", "quantity": 2**31, "unit_price": FORTUNE, "amount": FORTUNE}],
            expires_at=timezone.now(),
            finished_at=timezone.now(),
            settled_at=timezone.now(),
        )

    def _stop(self) -> None:
        stop(actor=self.mira, switch=Switch.JUDGING, reason=LONG)
        lift(actor=self.mira, switch=Switch.JUDGING, reason=LONG)
        stop(actor=self.mira, switch=Switch.MERGES, reason=LONG)

    def _rewrite(self) -> None:
        """Make generated and immutable texts long as well, with triggers disabled."""
        with connection.cursor() as cursor:
            cursor.execute("SET session_replication_role = replica")
        Submission.objects.exclude(verdict_kind="").update(verdict_reason=LONG)
        RunVerdict.objects.update(reason=LONG)
        Reproduction.objects.update(verdict_reason=LONG)
        NoiseSample.objects.filter(is_good=False).update(fault=LONG)
        Runner.objects.update(
            hardware="w" * SLUG, host="w" * 120, fingerprint={"cpu": LONG, "harness": LONG, "cores": 2}
        )
        for runner in Runner.objects.all():
            Runner.objects.filter(pk=runner.pk).update(name=f"{runner.name}{'w' * SLUG}"[:SLUG])
        with connection.cursor() as cursor:
            cursor.execute("SET session_replication_role = origin")


def page_paths() -> list[str]:
    """Addresses of every page in the URLconfs of the site and the bounty app, once per object."""
    things: dict[str, list[Any]] = {
        "bounty_id": list(Bounty.objects.values_list("pk", flat=True)),
        "submission_id": list(Submission.objects.values_list("pk", flat=True)),
        "reproduction_id": list(Reproduction.objects.values_list("pk", flat=True)),
        "request_id": list(UsageRecord.objects.values_list("pk", flat=True)),
        "prefix": list(ApiKey.objects.values_list("prefix", flat=True))[:1],
        "run_id": list(Run.objects.values_list("pk", flat=True))[:1],
    }
    names = {"lineage": Lineage, "runner": Runner}
    paths = []
    for route, pattern in _pages():
        wanted = list(pattern.pattern.converters)
        choices = [
            list(names[str(pattern.name)].objects.values_list("name", flat=True))
            if name == "name" and pattern.name in names
            else things.get(name, [])
            for name in wanted
        ]
        if len(wanted) > 1:
            continue  # addresses of buttons: they take POST only
        if not wanted:
            paths.append(f"/{route}")
            continue
        with suppress(IndexError):
            paths += [f"/{_filled(route, value)}" for value in choices[0]]
    return paths


def _pages() -> list[tuple[str, URLPattern]]:
    """Every route of the two apps' pages."""
    found = []
    for resolver in get_resolver().url_patterns:
        module = getattr(getattr(resolver, "urlconf_name", None), "__name__", "")
        if module in {"gainshare.web.pages", "bounty.pages"}:
            found += [(str(pattern.pattern), pattern) for pattern in resolver.url_patterns]
    return found


def _filled(route: str, value: str | UUID) -> str:
    start, _, rest = route.partition("<")
    return f"{start}{value}{rest.partition('>')[2]}"
