"""`gainshare verify --rerun`: fetches the two trees and has the judge measure them again on this machine.

The judge runs as a separate program, because it loads numpy and starts sandboxes.
"""

import io
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

import httpx

from gainshare.cli.client import TIMEOUT_S, site_url
from gainshare.cli.output import CliError
from gainshare.cli.program import run_program

MAX_ARCHIVE_BYTES = 256 * 1024 * 1024


def measure_again(
    file: Path,
    trees: Mapping[str, str],
    sources: Mapping[str, str],
    *,
    url: str,
    as_json: bool,
    reproduction: str = "",
) -> int:
    """Measure again and return `benchmarks.rerun`'s exit status: 0 for the same conclusion, else 1. Raises CliError.

    `trees` maps each side to its tree's hash; a side without a source is fetched from the site.
    `reproduction` is the bug's file, if the evidence is about a bug.
    """
    with tempfile.TemporaryDirectory(prefix="gainshare-rerun-") as folder:
        named = {
            side: sources[side] or str(fetch_tree(site_url(url), trees[side], Path(folder) / side))
            for side in ("base", "candidate")
        }
        # -P: folders `benchmarks` and `model` in the current directory must not be imported.
        argv = [sys.executable, "-P", "-m", "benchmarks.rerun", str(file)]
        argv += [part for side, source in named.items() for part in (f"--{side}", source)]
        argv += ["--reproduction", reproduction] if reproduction else []
        return run_program([*argv, *(["--json"] if as_json else [])])


def fetch_tree(url: str, tree: str, folder: Path) -> Path:
    """Fetch the tree's files from the site into `folder`; the judge checks the tree's hash."""
    try:
        answer = httpx.get(f"{url}/api/v1/trees/{tree}/archive/", timeout=TIMEOUT_S)
    except httpx.HTTPError as error:
        raise CliError(
            f"{url} cannot be reached ({error}): give --base and --candidate", code="unreachable"
        ) from None
    if answer.status_code != 200:
        raise CliError(
            f"{url} does not have the tree {tree[:12]}: give it with --base or --candidate",
            code="unknown_tree",
        )
    if len(answer.content) > MAX_ARCHIVE_BYTES:
        raise CliError(
            f"the archive of {tree[:12]} is larger than a tree may be, so it was not unpacked",
            code="too_large",
        )
    try:
        with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
            archive.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise CliError(f"the archive of {tree[:12]} cannot be unpacked: {error}", code="malformed") from None
    return folder
