"""Deploy trees on a whole local stack under load, and print how long each took and what failed."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.commands import command_line, ends_plainly
from benchmarks.loop.__main__ import free_port
from benchmarks.loop.commands import gainshare, local_stack
from benchmarks.loop.gateway import grant
from benchmarks.report import MeasuringFailed, Report, Row, say
from benchmarks.served.load import Load
from benchmarks.served.rows import deployment_rows, saving_rows
from benchmarks.served.site import Deployed, MeasuredSite
from model.command_errors import CommandParser
from model.serving.node.options import whole

ROOT = Path(__file__).resolve().parents[2]
ENGINE, FIX = "examples/base/textbook_engine.diff", "examples/engine/compiled_executor.diff"
SEAM = "model/layers/moe/experts.py"
DEPLOYMENTS, QUICK_DEPLOYMENTS = 20, 3
GAIN_MODEL = "smollm2-moe"
PARTS = UNDER_LOAD, GAIN = "deployments", "gain"


@ends_plainly
def main(arguments: Sequence[str] | None = None) -> int:
    parser = CommandParser(prog="python -m benchmarks.served", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument(
        "--deployments",
        type=whole(1),
        metavar="N",
        help=f"trees to deploy under load (default: {DEPLOYMENTS}, with --quick {QUICK_DEPLOYMENTS})",
    )
    parser.add_argument("--quick", action="store_true", help="fewer deployments, and no gain's saving")
    parser.add_argument(
        "--only", choices=PARTS, help="measure one part: the deployments under load, or the gain's saving"
    )
    parser.add_argument("--model", default="tiny", help="the model that is served under load (default: tiny)")
    chosen = parser.parse_args(arguments)
    number = chosen.deployments or (QUICK_DEPLOYMENTS if chosen.quick else DEPLOYMENTS)
    if chosen.only == GAIN and chosen.quick:
        parser.error("--quick leaves the gain's saving out: use it without --only gain")
    rows: list[Row] = []
    if chosen.only != GAIN:
        rows += _under_load(chosen.model, number)
    if chosen.only != UNDER_LOAD and not chosen.quick:
        rows += _of_the_gain()
    Report.here(command_line(parser.prog, arguments), rows).show(as_json=chosen.json)
    return 0


def _under_load(model: str, number: int) -> list[Row]:
    """Deploy `number` trees that differ in a docstring, one after the other, while customers ask."""
    with _stack(model) as site:
        site.lineage("tree-0", numbered_diff(0))
        _serve_first(site, "tree-0", model)
        deployed: list[Deployed] = []
        with Load(site.url, site.key, model) as load:
            for place in range(1, number + 1):
                site.lineage(f"tree-{place}", numbered_diff(place))
                deployed.append(site.deploy(f"tree-{place}", model))
        return deployment_rows(deployed, answered=load.answered, failures=load.failures)


def _of_the_gain() -> list[Row]:
    """Serve the textbook engine, then its fix: what the canary saves, and what the suite confirms."""
    with _stack(GAIN_MODEL) as site:
        site.lineage("textbook", (ROOT / ENGINE).read_text())
        _serve_first(site, "textbook", GAIN_MODEL)
        site.lineage("compiled", "")
        deployed = site.deploy("compiled", GAIN_MODEL)
    return saving_rows("compiled executor", deployed, "decode", _confirmed_log_ppm())


def _confirmed_log_ppm() -> int | None:
    """The bound of a confirmation of the same change, on this machine."""
    say("the suite decode measures the same change")
    bench = ["bench", "--suite", "decode", "--kind", "confirmation"]
    found = gainshare(
        *bench, "--base", str(ROOT / ENGINE), "--candidate", str(ROOT / FIX), env=os.environ, may_fail=True
    )
    bound: int | None = found.get("document", {}).get("verdict", {}).get("log_ppm_bound")
    return bound


def _serve_first(site: MeasuredSite, lineage: str, model: str) -> None:
    first = site.deploy(lineage, model)
    if first.state != "serving":
        raise MeasuringFailed(f"the first tree does not serve: {first.state} {first.why}")
    site.want(model, 1)
    site.wait_for_node(model)


@contextmanager
def _stack(model: str) -> Iterator[MeasuredSite]:
    """A fresh elastic stack without a node, with one device, whose administrator has credits."""
    folder = Path(tempfile.mkdtemp(prefix="gainshare-served-"))
    folder.chmod(0o711)  # the database's own user passes through
    options = ("--elastic", "--devices", "1", "--no-first-node")
    try:
        env = {**os.environ, "GAINSHARE_HOME": str(folder / "home")}
        with local_stack(model=model, port=free_port(), env=env, options=options) as state:
            key = _key_of(state)
            grant(state["url"], key)
            with MeasuredSite(state["url"], key) as site:
                yield site
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _key_of(state: Mapping[str, Any]) -> str:
    return Path(state["files"]["admin_key"]).read_text().strip()


def numbered_diff(number: int) -> str:
    """A diff that adds a line to the docstring of the shipped experts: another tree for each number, as fast."""
    first = (ROOT / SEAM).read_text().splitlines()[0]
    header = f"diff --git a/{SEAM} b/{SEAM}\n--- a/{SEAM}\n+++ b/{SEAM}\n"
    return f"{header}@@ -1,1 +1,2 @@\n {first}\n+Deployment {number}.\n"


if __name__ == "__main__":
    sys.exit(main())
