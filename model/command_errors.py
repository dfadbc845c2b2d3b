"""Error reporting of the stack's command lines."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

JSON = "--json"
USAGE = 2  # exit status of a wrong command line


class CommandParser(argparse.ArgumentParser):
    """Argument parser that reports errors as a JSON document too, with --json; also in subcommands."""

    _arguments: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; keeps the arguments for `error`."""
        self._arguments = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """End the process with status 2, usage and message on standard error."""
        self.print_usage(sys.stderr)
        as_json = any(len(word) > len("--") and JSON.startswith(word) for word in self._arguments)
        sys.exit(
            failed(f"{message} (`{self.prog} --help` lists the options)", "usage", USAGE, as_json=as_json)
        )


def failed(message: str, code: str, status: int = 1, *, as_json: bool) -> int:
    """Print an error on standard error, with `as_json` as a document on standard output too; returns `status`."""
    if as_json:
        sys.stdout.write(json.dumps({"error": {"code": code, "message": message}}) + "\n")
    sys.stderr.write(f"error: {message}\n")
    return status
