"""docs/github.md promises what the code does: its commands, settings, permissions, conclusions and limits."""

import re
from pathlib import Path

from bounty.github.app.permissions import NEEDED, WISHED
from bounty.github.pulls.commands import Name, read
from bounty.github.pulls.orders import MAINTAINERS
from bounty.github.pulls.outside_files import FINE_ENDING, FINE_FOLDERS
from bounty.limits import UNCLAIMED_AFTER

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "github.md").read_text(encoding="utf-8")
SETTINGS = (ROOT / "platform" / "gainshare" / "config" / "settings.py").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the rows of the first table below a heading."""
    part = TEXT.split(f"{heading}\n", 1)[1]
    table = part[part.index("|---") :].split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def test_the_commands_are_those_of_the_platform() -> None:
    examples = {
        "SUITE": "moe_forward",
        "RATE": "20",
        "ESCROW": "100",
        "CREDITS": "5",
        "PATH": "a.py",
        "TEXT": "why",
    }
    named = {}
    for cell, who, _ in rows("## Commands"):
        for written in re.findall(r"`([^`]+)`", cell):
            words = " ".join(examples.get(word, word) for word in written.replace(" …", "").split())
            named[read(words).name] = who
    assert set(named) == set(Name)
    assert {name for name, who in named.items() if who.startswith("maintainers")} == MAINTAINERS


def test_the_permissions_are_those_that_the_app_asks_for() -> None:
    table = {name.strip("`"): level for name, level, _ in rows("### 1. Make the App")}
    assert table == {**NEEDED, **WISHED}


def test_the_settings_are_read() -> None:
    named = set(re.findall(r"GAINSHARE_[A-Z_]+", TEXT))
    assert len(named) > 9
    assert {name for name in named if f'"{name.removesuffix("_FILE")}"' not in SETTINGS} == set()


def test_what_needs_no_measurement_is_named() -> None:
    line = next(line for line in TEXT.splitlines() if line.startswith("- Changes of"))
    assert set(re.findall(r"`([^`]+)`", line)) == {*FINE_FOLDERS, f"*{FINE_ENDING}"}


def test_the_conclusions_are_those_of_the_check_runs() -> None:
    source = "".join(
        (ROOT / "bounty" / "github" / "reports" / name).read_text(encoding="utf-8")
        for name in ("outcomes.py", "checks.py")
    )
    named = {word for cell, _ in rows("## What the check says") for word in re.findall(r"`([^`]+)`", cell)}
    assert {word for word in named if f'"{word}"' not in source} == set()
    assert {"success", "neutral", "failure", "cancelled", "action_required", "queued", "in_progress"} == named


def test_the_days_are_those_of_the_limit() -> None:
    assert f"**{UNCLAIMED_AFTER.days} days**" in TEXT
