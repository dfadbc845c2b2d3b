"""The demo's main job, in order: fund, open, submit, judge, confirm, accept, merge, vest, spend, audit, verify."""

import uuid
from dataclasses import dataclass, field
from pathlib import Path

from gainshare.cli.client import Site, SiteError
from gainshare.cli.demo.cases import CASES, HONEST_AUTHOR, TEXTBOOK_BASE
from gainshare.cli.demo.people import Person, contributor, maintainer
from gainshare.cli.demo.record import Record
from gainshare.cli.demo.spending import spend_on_chat
from gainshare.cli.demo.watching import Progress, wait_for_verdict
from gainshare.cli.evidence import check_evidence
from gainshare.cli.output import credits_text

TREASURY_MICROCREDITS = 500_000_000
ESCROW_MICROCREDITS = 100_000_000
RATE_MICROCREDITS_PER_NAT = 20_000_000
BOUNTY = {
    "title": "Compute only the experts that the router chose",
    "description": (
        "The base tree runs every expert on every token and discards most results. Produce equal outputs "
        "in less time."
    ),
    "suite": "moe_forward",
    "preset": "tour",
    "hardware": "cpu",
    "escrow_microcredits": ESCROW_MICROCREDITS,
    "rate_microcredits_per_nat": RATE_MICROCREDITS_PER_NAT,
}


@dataclass
class Stage:
    """Context of the scenario: site, users, and record."""

    url: str
    admin: Site
    examples: Path
    evidence_dir: Path
    model: str
    record: Record
    progress: Progress
    people: dict[str, Person] = field(default_factory=dict)


def play(stage: Stage) -> None:
    """Run every step of the scenario. Raises SiteError if a step fails that later ones need."""
    _invite(stage)
    bounty = _open_bounty(stage)
    submissions = _submit_all(stage, bounty)
    _judge_all(stage, submissions)
    _pay(stage, submissions[HONEST_AUTHOR])
    _spend(stage)
    _audit(stage)
    _verify(stage, submissions)


def _invite(stage: Stage) -> None:
    with stage.record.step(
        "people", "a maintainer, a reviewer and six contributors sign up and make keys"
    ) as step:
        for name in ("mira", "ruth"):
            stage.people[name] = maintainer(stage.url, name, admin=stage.admin)
        for case in CASES:
            stage.people[case.author] = contributor(stage.url, case.author)
        step.ok, step.actual = True, f"{len(stage.people)} people signed up"


def _open_bounty(stage: Stage) -> str:
    mira = stage.people["mira"]
    with stage.record.step("treasury", "the maintainer funds the treasury") as step:
        mira.post(
            "treasury/fund/",
            {"transfer_id": str(uuid.uuid4()), "amount_microcredits": TREASURY_MICROCREDITS, "memo": "demo"},
        )
        step.ok, step.actual = True, f"{credits_text(TREASURY_MICROCREDITS)} credits funded"
    with stage.record.step(
        "bounty", "the maintainer opens a bounty on moe_forward, with escrow, over the textbook loop"
    ) as step:
        base = mira.post("trees/", {"base": "shipped", "diff": (stage.examples / TEXTBOOK_BASE).read_text()})[
            "hash"
        ]
        lineage = mira.post("lineages/", {"name": "demo", "is_demo": True, "base_tree": base})
        bounty = mira.post("bounties/", {**BOUNTY, "lineage": lineage["name"]})
        escrow = f"{credits_text(ESCROW_MICROCREDITS)} credits in escrow"
        step.ok, step.actual = True, f"base tree {base[:12]}, {escrow}"
    return str(bounty["id"])


def _submit_all(stage: Stage, bounty: str) -> dict[str, str]:
    submissions = {}
    with stage.record.step("submissions", "six contributors submit one diff each") as step:
        for case in CASES:
            diff = (stage.examples / case.diff).read_text()
            submissions[case.author] = stage.people[case.author].post(
                "submissions/", {"bounty": bounty, "diff": diff}
            )["id"]
        step.ok, step.actual = True, f"{len(submissions)} received"
    return submissions


def _judge_all(stage: Stage, submissions: dict[str, str]) -> None:
    for case in CASES:
        expected = " or ".join(sorted(case.verdicts))
        with stage.record.step(f"{case.author} submits {Path(case.diff).stem}", expected) as step:
            person = stage.people[case.author]
            seen = wait_for_verdict(person, submissions[case.author], stage.progress)
            verdict = seen["verdict"]
            step.ok = verdict["kind"] in case.verdicts and (case.author == HONEST_AUTHOR or not seen["award"])
            step.actual = f"{verdict['kind']}: {verdict['reason']}"
            stage.record.submissions.append(
                {
                    "author": case.author,
                    "diff": case.diff,
                    "shows": case.shows,
                    "expected": sorted(case.verdicts),
                    "id": seen["id"],
                    "state": seen["state"],
                    "verdict": verdict,
                    "runs": seen["runs"],
                }
            )


def _pay(stage: Stage, submission: str) -> None:
    """Accept, merge and vest the honest gain, each step by the responsible user."""
    author, reviewer = stage.people[HONEST_AUTHOR], stage.people["ruth"]
    path = f"submissions/{submission}/"
    with stage.record.step("confirmation", "the second run confirms a lower bound above zero") as step:
        seen = author.get(path)
        step.ok = seen["state"] == "confirmed" and seen["award"] is not None
        step.actual = (
            f"{seen['state']}, award {credits_text(seen['award']['amount_microcredits'])} credits unvested"
        )
    with stage.record.step("no self-review", "the author cannot accept their own submission") as step:
        try:
            author.post(f"{path}review/", {"decision": "accept", "comment": "mine"})
            step.actual = "the author's own review was accepted"
        except SiteError as refusal:
            step.ok, step.actual = True, str(refusal)
    with stage.record.step(
        "review and merge", "another person accepts; the merged tree is the measured one"
    ) as step:
        reviewer.post(
            f"{path}review/",
            {"decision": "accept", "comment": "The outputs are equal, and the code is readable."},
        )
        reviewer.post(f"{path}merge/")
        seen = author.get(path)
        tip = author.get("lineages/demo/")["tip"]
        step.ok = tip == seen["candidate_tree"]
        step.actual = f"lineage tip {tip[:12]}, measured tree {seen['candidate_tree'][:12]}"
    with stage.record.step("vesting", "the award vests as spendable credits") as step:
        seen = author.get(path)
        balance = author.get("credits/")["balance"]
        step.ok = (
            seen["state"] == "vested" and balance["available"] == seen["award"]["amount_microcredits"] > 0
        )
        step.actual = f"{seen['state']}, {credits_text(balance['available'])} credits available"
        stage.record.award = seen["award"]


def _spend(stage: Stage) -> None:
    author = stage.people[HONEST_AUTHOR]
    with stage.record.step(
        "chat", "a streamed answer through the openai client is billed line by line"
    ) as step:
        before = author.get("credits/")["balance"]["available"]
        chat = spend_on_chat(stage.url, author, stage.model, stage.record.console)
        spent = before - author.get("credits/")["balance"]["available"]
        stage.record.chat = chat
        total = chat["bill"]["charged_microcredits"]
        lines = sum(line["amount"] for line in chat["bill"]["bill_lines"])
        step.ok = "Paris" in chat["answer"] and spent == total == lines > 0
        step.actual = (
            f"{chat['answer']!r} for {credits_text(total)} credits, {spent} micro-credits left the wallet"
        )


def _audit(stage: Stage) -> None:
    with stage.record.step("audit", "every ledger invariant holds") as step:
        stage.record.audit = stage.people["mira"].get("audit/")["invariants"]
        broken = [row["name"] for row in stage.record.audit if not row["holds"]]
        step.ok = bool(stage.record.audit) and not broken
        step.actual = f"{len(stage.record.audit)} invariants, broken: {', '.join(broken) or 'none'}"


def _verify(stage: Stage, submissions: dict[str, str]) -> None:
    with stage.record.step("verify", "every evidence file is verified offline") as step:
        for name, submission in submissions.items():
            for run in stage.people[name].get(f"submissions/{submission}/")["runs"]:
                document = stage.people[name].get(f"runs/{run['id']}/evidence/")
                stage.record.evidence.append(
                    check_evidence(document, stage.evidence_dir / f"{run['id']}.json")
                )
        bad = [row["file"] for row in stage.record.evidence if not row["ok"]]
        step.ok = bool(stage.record.evidence) and not bad
        step.actual = f"{len(stage.record.evidence)} files in {stage.evidence_dir.name}/, bad: {', '.join(bad) or 'none'}"
