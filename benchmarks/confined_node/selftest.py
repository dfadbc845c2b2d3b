"""Attacks a model node's sandbox: a node is started as production starts it, and its tree holds hostile code.

The tree is the installed one with a module of an open room that attacks when it is imported. What it reports arrives
as every print of a node does, in its starter's log.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.confined_node.folders import installed_tree
from benchmarks.confined_node.start import CODE_TARGET, HOME_TARGET
from benchmarks.sandbox.levels import SandboxLevel
from benchmarks.sandbox.runtime import PACKAGES_TARGET, base_interpreter, interpreter_mounts
from benchmarks.sandbox.selftest.results import Attack
from benchmarks.sandbox.selftest.run import FAMILIES, host_unharmed, page_cache, read_report
from benchmarks.sandbox.selftest.targets import Stage, set_stage

NODE_FAMILIES = (*FAMILIES, "node")
HOSTILE = "model/serving/engine/fairness.py"  # imported with the scheduler, before anything is served
TARGETS = "targets.json"
ATTACK = f"""
import os, sys
os.execv(sys.executable, [sys.executable, "-S", "-s", "-B", "-m", "attacks.chain", "0", "{CODE_TARGET}/{TARGETS}"])
"""
#: Memory that is taken and used, up to eight times the limit.
BOMB_GIB = 1
BOMB = f"""
kept = []
for _ in range({8 * BOMB_GIB * 16}):
    kept.append(bytearray(b"x" * (64 << 20)))
print("took all of it", flush=True)
"""
TIMEOUT_S = 120.0
TOKEN = "the node's own"  # noqa: S105 - of a node that no one uses


def attack_node(level: SandboxLevel, *, exposed: bool = False) -> list[Attack]:
    """Try every attack from inside a node at `level`; about fifteen seconds, most of them imports.

    `exposed` mounts the folder of planted secrets into the node, for a test that the attacks find what is in reach.
    """
    with set_stage() as stage, tempfile.TemporaryDirectory(prefix="gainshare-node-") as folder:
        code = _hostile_tree(Path(folder) / "code", ATTACK)
        os.link(stage.ballast, code / "ballast")
        shutil.copytree(stage.ballast.parent / "attacks", code / "attacks")
        (code / TARGETS).write_text(json.dumps(_facts(stage)))
        options = ["--readable", str(Path(stage.facts["secret_file"]).parent)] if exposed else []
        status, log = _run_node(Path(folder), level, code, options)
        attacks = list(_read(log, status))
        attacks += [_named(host_unharmed(stage)), _named(page_cache(stage))]
        bomb = _hostile_tree(Path(folder) / "bomb", BOMB)
        attacks.append(_memory_bomb(*_run_node(Path(folder), level, bomb, ["--memory-gib", str(BOMB_GIB)])))
    return attacks


def _hostile_tree(folder: Path, code: str) -> Path:
    folder.mkdir()
    installed_tree(folder)
    module = folder / HOSTILE
    content = module.read_text()
    module.unlink()  # it is read-only
    module.write_text(f"{code}\n{content.replace('from __future__ import annotations', '')}")
    return folder


def _facts(stage: Stage) -> dict[str, Any]:
    prefixes = [mount.target for mount in interpreter_mounts()]
    folders = [CODE_TARGET, f"{CODE_TARGET}/attacks", f"{CODE_TARGET}/model", HOME_TARGET, "/node"]
    return stage.facts | {
        "families": NODE_FAMILIES,
        "mounted_folders": [*folders, PACKAGES_TARGET, "/sandbox", *prefixes],
        "mounted_files": [f"{CODE_TARGET}/attacks/attempt.py", "/sandbox/inner.py", str(base_interpreter())],
        "ballast": f"{CODE_TARGET}/ballast",
        "served": f"{CODE_TARGET}/model/",
        "host_sockets": sorted(_host_sockets()),
        "own_code": [f"{CODE_TARGET}/{HOSTILE}", f"{CODE_TARGET}/model/__init__.py"],
        "own_folders": [CODE_TARGET, f"{CODE_TARGET}/model", f"{CODE_TARGET}/model/serving"],
    }


def _host_sockets() -> set[str]:
    """Paths of the unix sockets of this machine; the kernel lists them as the last word of a line."""
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return {words[7] for line in lines if len(words := line.split()) > 7 and words[7].startswith("/")}


def _run_node(folder: Path, level: SandboxLevel, code: Path, options: Sequence[str]) -> tuple[int, str]:
    """Start a node as production does, and wait for its end. Returns its status and its log."""
    token = folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    own = ["--level", level.value, "--folder", str(folder / f"of-{code.name}"), "--port", "0"]
    command = [sys.executable, "-m", "benchmarks.confined_node", *own, "--token-file", str(token), *options]
    try:
        done = subprocess.run(
            [*command, "--code", str(code), "--", "--model", "tiny"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        log = error.stderr or b""
        return -1, log.decode(errors="replace") if isinstance(log, bytes) else log
    return done.returncode, done.stderr


def _read(log: str, status: int) -> Iterator[Attack]:
    """The reports of each family. A family that did not begin is not contained."""
    parts: dict[str, list[str]] = {}
    current = ""
    for line in log.splitlines():
        if line.startswith('{"family": '):
            current = json.loads(line)["family"]
            parts[current] = []
        elif current and line.startswith("{"):
            parts[current].append(line)
    for family in NODE_FAMILIES:
        reports = "\n".join(parts.get(family, [])).encode()
        yield from read_report(f"node.{family}", reports, f"status {status}: {log[-500:]}")


def _memory_bomb(status: int, log: str) -> Attack:
    contained = status > 0 and "took all of it" not in log and "its limit" in log
    detail = f"ended at its limit of {BOMB_GIB} GiB" if contained else f"status {status}: {log[-300:]}"
    return Attack("node.memory_bomb", contained, detail)


def _named(attack: Attack) -> Attack:
    return Attack(f"node.{attack.name}", attack.contained, attack.detail)
