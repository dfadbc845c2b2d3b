"""The demo's main job, in order: fund, open, serve, submit, judge, confirm, accept, merge, vest, deploy, spend, audit, verify."""

import uuid
from pathlib import Path

from gainshare.cli.client import SiteError
from gainshare.cli.contributor.evidence import check_evidence
from gainshare.cli.demo.bounties import BOUNTIES, ENGINE, ESCROW_MICROCREDITS, TREASURY_MICROCREDITS
from gainshare.cli.demo.cases import CASES, HONEST_AUTHOR
from gainshare.cli.demo.people import contributor, maintainer
from gainshare.cli.demo.serving import deploy_gain, lower_price, start_serving
from gainshare.cli.demo.spending import spend_on_chat
from gainshare.cli.demo.stage import Stage
from gainshare.cli.demo.watching import wait_for_verdict
from gainshare.cli.output import CliError, credits_text


def play(stage: Stage) -> None:
    """Run every step of the scenario. Raises CliError if a step fails that later ones need."""
    _invite(stage)
    bounties = _open_bounties(stage)
    start_serving(stage)
    submissions = _submit_all(stage, bounties)
    _judge_all(stage, submissions)
    _pay(stage, submissions[HONEST_AUTHOR])
    deploy_gain(stage)
    lower_price(stage)
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


def _open_bounties(stage: Stage) -> dict[str, str]:
    """The numbers of the bounties by lineage."""
    mira = stage.people["mira"]
    with stage.record.step("treasury", "the maintainer funds the treasury") as step:
        mira.post(
            "treasury/fund/",
            {"transfer_id": str(uuid.uuid4()), "amount_microcredits": TREASURY_MICROCREDITS, "memo": "demo"},
        )
        step.ok, step.actual = True, f"{credits_text(TREASURY_MICROCREDITS)} credits funded"
    opened = {}
    with stage.record.step(
        "bounties", "the maintainer opens two bounties with escrow, on moe_forward and on decode"
    ) as step:
        for bounty in BOUNTIES:
            diff = (stage.examples / bounty.base).read_text()
            base = mira.post("trees/", {"base": "shipped", "diff": diff})["hash"]
            mira.post("lineages/", {"name": bounty.lineage, "is_demo": True, "base_tree": base})
            opened[bounty.lineage] = str(
                mira.post("bounties/", {**bounty.terms(), "lineage": bounty.lineage})["id"]
            )
        step.ok = len(opened) == len(BOUNTIES)
        step.actual = (
            f"{len(opened)} bounties with {credits_text(ESCROW_MICROCREDITS)} credits in escrow each"
        )
    return opened


def _submit_all(stage: Stage, bounties: dict[str, str]) -> dict[str, str]:
    submissions = {}
    with stage.record.step("submissions", "six contributors submit one diff each") as step:
        for case in CASES:
            diff = (stage.examples / case.diff).read_text()
            submissions[case.author] = stage.people[case.author].post(
                "submissions/", {"bounty": bounties[case.bounty.lineage], "diff": diff}
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
        if seen["award"] is None:
            raise CliError(
                f"no award for {HONEST_AUTHOR} ({seen['state']}), so nothing can be merged and served"
            )
        step.ok = seen["state"] == "confirmed"
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
        tip = author.get(f"lineages/{ENGINE.lineage}/")["tip"]
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
        "chat", "a streamed answer of the merged tree is billed line by line, for less than before"
    ) as step:
        before = author.get("credits/")["balance"]["available"]
        chat = spend_on_chat(stage.url, author, stage.model, stage.record.console)
        spent = before - author.get("credits/")["balance"]["available"]
        stage.record.chat = chat
        bill = chat["bill"]
        total, comparison = bill["charged_microcredits"], bill["comparison"]
        lines = sum(line["amount"] for line in bill["bill_lines"])
        step.ok = "Paris" in chat["answer"] and spent == total == lines > 0
        step.ok &= bill["tree"] == stage.record.deployment["tree"] and comparison["saved_microcredits"] > 0
        step.ok &= [gain["person"] for gain in comparison["gains"]] == [HONEST_AUTHOR]
        step.actual = (
            f"{chat['answer']!r} by the tree {bill['tree'][:12]} for {credits_text(total)} credits; before the gain of "
            f"{', '.join(gain['person'] for gain in comparison['gains'])} "
            f"{credits_text(comparison['before_microcredits'])}"
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
