"""Downloads one file with progress, resume and checksum."""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from model.smollm2.errors import DownloadError

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all where known

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0
ATTEMPTS = 4


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str, target: Path, *, sha256: str, progress: Progress, retry_wait_s: float = 1.0) -> None:
    """Download `url` to `target`, which appears only if its sha256 is right.

    Bytes are written to `target` + ".part"; a later call continues where an earlier one stopped, if the server supports
        Range requests. Raises DownloadError after several failed attempts or for a wrong checksum (the bytes are
        then deleted), OSError where the disk refuses.
    """
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(ATTEMPTS):
        try:
            _continue(url, part, progress)
            break
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            if attempt == ATTEMPTS - 1 or _is_final(error):
                kept = part.stat().st_size if part.exists() else 0
                raise DownloadError(
                    f"cannot download {url}: {reason}. Check the network connection and run the same command "
                    f"again; it continues after the {kept:,} bytes that are already here"
                ) from error
            time.sleep(retry_wait_s * 2**attempt)
    actual = file_sha256(part)
    if actual != sha256:
        part.unlink()
        raise DownloadError(
            f"{url} has sha256 {actual} instead of {sha256}: it was damaged in transit or is not the published "
            "file. Run the same command again; if the error repeats, do not use this package index"
        )
    part.rename(target)


def _is_final(error: Exception) -> bool:
    """Whether a retry cannot help: HTTP client errors, except for time-outs and rate limits."""
    return (
        isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500 and error.code not in (408, 429)
    )


def _continue(url: str, part: Path, progress: Progress) -> None:
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})  # noqa: S310  # the index names the URL; its content is checked
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # the whole file is already here
        raise
    with response:
        if done and response.status != http.HTTPStatus.PARTIAL_CONTENT:
            done = 0  # the server ignores Range: start again
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with part.open("ab" if done else "wb") as file:
            progress(done, total)
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
    if total is not None and done < total:
        raise ConnectionError(f"the connection ended after {done:,} of {total:,} bytes")
