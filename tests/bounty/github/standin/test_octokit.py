"""Where npm is missing, what was not compared is said by name."""

from pathlib import Path

import pytest

from tests.bounty.github.standin.octokit import DESCRIPTION, unpacked


def test_without_npm_it_is_said_what_was_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        pytest.skip.Exception, match="expected: NO NPM HERE: nothing was compared with @octokit/openapi"
    ):
        unpacked(DESCRIPTION, tmp_path / "packages")


def test_without_a_registry_it_is_said_what_was_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(pytest.skip.Exception, match="expected: NPM GAVE NOTHING"):
        unpacked(DESCRIPTION, tmp_path / "packages")
