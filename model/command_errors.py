"""How the stack's commands say that they failed. Knows nothing of what they do."""

from __future__ import annotations

import json
import sys


def failed(message: str, code: str, status: int = 1, *, as_json: bool) -> int:
    """Says so on standard error, with `as_json` as a document on standard output too; returns `status`."""
    if as_json:
        sys.stdout.write(json.dumps({"error": {"code": code, "message": message}}) + "\n")
    sys.stderr.write(f"error: {message}\n")
    return status
