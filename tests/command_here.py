"""The `gainshare` command within the test's own process."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gainshare.cli.main import main

Result = tuple[int, str, str]
Command = Callable[..., Result]


def command_here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Takes the command's arguments; gives exit status, standard output and standard error."""

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["gainshare", *arguments])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capfd.readouterr()
        return status, out, err

    return run


def lone_command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], home: Path) -> Command:
    """As `command_here`, with a home of its own and no site named."""
    monkeypatch.setenv("GAINSHARE_HOME", str(home))
    for name in ("GAINSHARE_URL", "GAINSHARE_KEY", "GAINSHARE_PORT"):
        monkeypatch.delenv(name, raising=False)
    return command_here(monkeypatch, capfd)


def error_of(output: str) -> dict[str, str]:
    """The error in a command's `--json` output."""
    error: dict[str, str] = json.loads(output)["error"]
    return error
