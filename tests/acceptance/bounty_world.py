"""A funded bounty on a running stack, for acceptance tests: people sign up and talk REST, as they do in the demo."""

import secrets
import uuid
from dataclasses import dataclass
from pathlib import Path

from gainshare.cli.client import Site
from gainshare.cli.demo.people import Person, contributor, maintainer

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ESCROW_MICROCREDITS = 100_000_000
RATE_MICROCREDITS_PER_NAT = 20_000_000


@dataclass(frozen=True)
class BountyWorld:
    """A bounty over the textbook base, its maintainer and a reviewer."""

    url: str
    maintainer: Person
    reviewer: Person
    bounty: str
    lineage: str

    def newcomer(self) -> Person:
        return contributor(self.url, _name("contributor"))

    def submit(self, author: Person, diff: str, *, more: str = "") -> str:
        """Submit one of the example patches, with `more` changes of other files; returns the submission's id."""
        text = (EXAMPLES / "patches" / f"{diff}.diff").read_text() + more
        return str(author.post("submissions/", {"bounty": self.bounty, "diff": text})["id"])


def open_bounty(url: str, admin_key: str, *, base: str = "textbook_moe", preset: str = "demo") -> BountyWorld:
    """Fund the treasury and open a bounty on `moe_forward`, in a lineage of its own."""
    admin = Site(url, admin_key)
    mira = maintainer(url, _name("mira"), admin=admin)
    ruth = maintainer(url, _name("ruth"), admin=admin)
    amount = {"transfer_id": str(uuid.uuid4()), "amount_microcredits": ESCROW_MICROCREDITS, "memo": "test"}
    mira.post("treasury/fund/", amount)
    diff = (EXAMPLES / "base" / f"{base}.diff").read_text()
    # A comment of its own makes this lineage's trees new: no candidate was judged before.
    tree = mira.post("trees/", {"base": "shipped", "diff": diff})["hash"]
    tree = mira.post("trees/", {"base": tree, "diff": _marker(secrets.token_hex(8))})["hash"]
    lineage = _name("lineage")
    mira.post("lineages/", {"name": lineage, "is_demo": True, "base_tree": tree})
    terms = {
        "title": "Stop computing what is thrown away",
        "lineage": lineage,
        "suite": "moe_forward",
        "preset": preset,
        "hardware": "cpu",
        "escrow_microcredits": ESCROW_MICROCREDITS,
        "rate_microcredits_per_nat": RATE_MICROCREDITS_PER_NAT,
    }
    return BountyWorld(url, mira, ruth, str(mira.post("bounties/", terms)["id"]), lineage)


def _name(role: str) -> str:
    return f"{role}-{secrets.token_hex(4)}"


def _marker(text: str) -> str:
    return f"--- /dev/null\n+++ b/model/lineage_mark.py\n@@ -0,0 +1 @@\n+# {text}\n"
