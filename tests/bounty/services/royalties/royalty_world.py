"""A model whose deployments have merged gains, and people who pay for its tokens from lots of each kind."""

from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import uuid4

from django.utils import timezone

from benchmarks.patch.trees import Tree, TreeEntry
from bounty.models import Bounty, Lineage, RoyaltyTerm, Submission
from bounty.services.awards.lifecycle import reverse
from bounty.services.merges import merge
from bounty.services.reviews import review
from bounty.services.royalties.terms import note_deployment
from bounty.services.transitions import note
from bounty.services.trees import blob_store, load_tree, store_tree
from gainshare.accounts.models import User
from gainshare.capacity.models import Deployment, DeploymentState
from gainshare.gateway.metering import Metered
from gainshare.gateway.models import RequestStatus, UsageRecord
from gainshare.gateway.services import price_bill
from gainshare.ledger import services as ledger
from gainshare.ledger.models import PriceVersion, Transfer
from gainshare.ledger.price_book import PriceTable, active_price, as_stored, publish_price
from gainshare.ledger.services.grants import PURCHASE
from tests.bounty.bounty_world import World, diff_of_line, make_user

MODEL = "tiny"
PRICES = {"cached_input": 100_000, "fresh_input": 1_000_000, "output": 4_000_000}
DAYS_AGO = 30


@dataclass
class RoyaltyWorld:
    """The model was priced and first deployed a month ago, with a tree without gains. Ann and Bob make gains; Cem pays."""

    world: World = field(default_factory=World)
    cem: User = field(default_factory=lambda: make_user("cem"))
    start: datetime = field(init=False)
    price: PriceVersion = field(init=False)
    serving: Deployment | None = None
    gains: int = 0
    bounties: dict[str, Bounty] = field(default_factory=dict)

    def __post_init__(self) -> None:
        today = datetime.combine(timezone.now().astimezone(UTC).date(), time(), UTC)
        self.start = today - timedelta(days=DAYS_AGO)
        self.price = publish_price(
            model=MODEL, effective_at=self.start - timedelta(days=1), actor=self.world.mira, **PRICES
        )
        self.bounties["moe_forward"] = self.world.bounty
        self.deploy(self.world.lineage.tip_id, day=0, is_first=True)

    def at(self, day: float) -> datetime:
        return self.start + timedelta(days=day)

    def day(self, day: int) -> date:
        return self.at(day).date()

    def gain(self, who: User, log: float = 0.3, suite: str = "moe_forward") -> Submission:
        """A merged, vested gain of that suite at the lineage's tip."""
        self.gains += 1
        if suite not in self.bounties:
            self.bounties[suite] = self.world.open(title=f"Better {suite}", suite=suite)
        diff = diff_of_line(self.gains, f"fast = {self.gains}")
        submission = self.world.confirmed(who, diff, log, self.bounties[suite])
        review(actor=self.world.ruth, submission_id=submission.pk, decision="accept")
        submission = merge(actor=self.world.mira, submission_id=submission.pk)
        self.world.lineage.refresh_from_db()
        assert self.world.lineage.tip_id == submission.candidate_tree_id
        return submission

    def push(self) -> None:
        """A push to the repository moves the tip to a tree that no one measured."""
        self.gains += 1
        lineage = self.world.lineage
        before, tree = lineage.tip_id, load_tree(lineage.tip)
        blob = blob_store().put(f"pushed = {self.gains}\n".encode())
        kept = [entry for entry in tree.entries if entry.path != "model/layers/moe/router.py"]
        pushed = TreeEntry("model/layers/moe/router.py", 0o644, blob)
        tip = store_tree(tree=Tree(tuple(sorted([*kept, pushed]))))
        Lineage.objects.filter(pk=lineage.pk).update(tip=tip)
        note(lineage, old=before, new=tip.pk, reason="pushed")
        lineage.refresh_from_db()

    def deploy(self, tree: str, *, day: float, decode: int = 0, **more: Any) -> Deployment:
        """A deployment that serves from that day on, with the decode bound of its canary against the best tree."""
        lines = {"decode": decode, **more.pop("lines", {})}
        result = {
            "best": {
                line: {"bound_log_ppm": bound, "estimate_log_ppm": bound, "pairs": 30}
                for line, bound in lines.items()
            }
        }
        if self.serving is not None:
            Deployment.objects.filter(pk=self.serving.pk, state=DeploymentState.SERVING).update(
                state=DeploymentState.SUPERSEDED, ended_at=self.at(day)
            )
        is_clocked = not more.get("is_first") and not more.get("is_rollback")
        self.serving = Deployment.objects.create(
            model=MODEL,
            tree=tree,
            before=self.serving,
            lineage=self.world.lineage.name,
            reason="test",
            state=DeploymentState.SERVING,
            serving_at=self.at(day),
            result=result if is_clocked else {},
            **more,
        )
        return self.serving

    def noted(self, day: float, decode: int, **more: Any) -> list[RoyaltyTerm]:
        """Deploy the lineage's tip, and begin its terms."""
        return note_deployment(self.deploy(self.world.lineage.tip_id, day=day, decode=decode, **more).pk)

    def roll_back(self, deployment: Deployment, *, day: float) -> Deployment:
        """Put the tree before it back."""
        assert deployment.before is not None
        before = deployment.before.tree
        Deployment.objects.filter(pk=deployment.pk).update(
            state=DeploymentState.ROLLED_BACK, ended_at=self.at(day)
        )
        self.serving = deployment
        return self.deploy(before, day=day, is_rollback=True)

    def reverse(self, submission: Submission) -> None:
        submission.refresh_from_db()
        reverse(actor=self.world.mira, submission=submission, reason="it was a cheat")

    def earn(self, who: User, amount: int) -> None:
        """A vested award."""
        escrow = f"bounty:{uuid4()}"
        ledger.open_escrow(transfer_id=uuid4(), reference=escrow, amount_microcredits=amount)
        reservation = ledger.reserve_award(
            transfer_id=uuid4(), escrow_reference=escrow, amount_microcredits=amount, reference="submission:x"
        )
        award = ledger.book_award(
            transfer_id=uuid4(),
            reservation_id=reservation.pk,
            user=who,
            amount_microcredits=amount,
            reference="submission:x",
        )
        ledger.vest_award(transfer_id=award.pk)

    def grant(self, who: User, amount: int, source: str, priority: int = 50) -> None:
        ledger.grant_credits(
            transfer_id=uuid4(),
            user=who,
            amount_microcredits=amount,
            source=source,
            payment=f"invoice {uuid4()}" if source == PURCHASE else "",
            priority=priority,
        )

    def ask(
        self,
        who: User,
        *,
        day: float,
        tree: str,
        output: int = 1_000,
        prompt: int = 0,
        price: PriceVersion | None = None,
    ) -> UsageRecord:
        """A settled request of that many tokens."""
        metered = Metered(prompt, 0, output, {}, None, (), 0)
        paid_by = price or self.price
        priced = price_bill(metered, paid_by)
        request_id, at = uuid4(), self.at(day)
        ledger.open_hold(
            hold_id=request_id,
            user=who,
            amount_microcredits=priced.total,
            expires_at=timezone.now() + timedelta(minutes=5),
            reference=f"request:{request_id}",
        )
        ledger.settle_hold(hold_id=request_id, amount_microcredits=priced.total)
        UsageRecord.objects.create(
            request_id=request_id,
            user=who,
            key_prefix="playground",
            endpoint="completions",
            model=MODEL,
            is_stream=False,
            status=RequestStatus.COMPLETED,
            max_tokens=output,
            prompt_tokens=prompt,
            counted_prompt_tokens=prompt,
            completion_tokens=output,
            tree=tree,
            price=paid_by,
            hold_microcredits=priced.total,
            bill_lines=[line.as_json() for line in priced.lines],
            billed_microcredits=priced.total,
            charged_microcredits=priced.total,
            expires_at=at,
            finished_at=at,
            settled_at=at,
        )
        return UsageRecord.objects.select_related("price").get(pk=request_id)

    def set_price(self, *, day: float, **terms: int) -> PriceVersion:
        """A price that a maintainer set by hand, in force from that day of the past on."""
        table = as_stored(PriceTable(**{**PRICES, **terms}))
        at = self.at(day)
        self.price = PriceVersion.objects.create(
            model=MODEL, effective_at=at, created_at=at, actor=self.world.mira, derivation={}, **asdict(table)
        )
        return self.price

    def royalties(self, who: User | None = None) -> int:
        """Unvested and vested royalties, of one person or of all."""
        rows = Transfer.objects.filter(kind="royalty", state__in=["pending", "posted"])
        if who is not None:
            rows = rows.filter(to_account__owner=who)
        return sum(rows.values_list("amount_microcredits", flat=True))

    def price_now(self) -> PriceVersion:
        return active_price(MODEL, timezone.now())
