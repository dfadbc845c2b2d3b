"""Level NONE: the same call without a sandbox, for development only. Mount targets become the host's paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.sandbox.levels import Mount


def translate(argv: Sequence[str], mounts: Sequence[Mount], env: Mapping[str, str]) -> list[str]:
    """The command with targets replaced in arguments and in colon-separated environment values.

    /work and /tmp stay the host's /tmp: nothing is private at this level.
    """
    settings = [
        f"{name}={':'.join(_host_path(part, mounts) for part in value.split(':'))}"
        for name, value in env.items()
    ]
    return ["/usr/bin/env", "-i", *settings, *(_host_path(part, mounts) for part in argv)]


def _host_path(text: str, mounts: Sequence[Mount]) -> str:
    for mount in sorted(mounts, key=lambda mount: len(mount.target), reverse=True):
        if text == mount.target or text.startswith(mount.target + "/"):
            return str(mount.source) + text[len(mount.target) :]
    return "/tmp" + text[len("/work") :] if text == "/work" or text.startswith("/work/") else text  # noqa: S108
