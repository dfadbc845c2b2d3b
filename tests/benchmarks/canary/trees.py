"""Trees that attack a canary: the installed one with small changes, most of them in code that patches may touch."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.confined_node.folders import installed_tree
from benchmarks.pairs.builds.build import LIBRARY
from model import native

EXECUTOR = "model/serving/executors/native.py"
NODE = "model/serving/node/app.py"
STREAM = "model/serving/api/streaming.py"
USAGE = "model/serving/metering/usage.py"

Change = tuple[str, str, str]
"""File, old text, new text."""

RETURN = "        self.n_steps += 1\n        return logits_NV\n"
HOOK = "        self.n_steps += 1\n        hostile(parts, logits_NV)\n        return logits_NV\n"
FUTURE = "from __future__ import annotations\n"


def executor(code: str) -> list[Change]:
    """`code` defines `hostile(parts, logits_NV)`, called after each step."""
    return [(EXECUTOR, RETURN, HOOK), (EXECUTOR, FUTURE, f"{FUTURE}\n{code}\n")]


PROMPTS = "[bytes(t for t in part.tokens if t < 256) for part in parts if len(part.tokens) > 8]"
PROMPT = "        prompt = read_messages(body) if is_chat else read_prompt(body)\n        ask ="
DONE = "    yield DONE\n\n\nclass EventStream"

#: Each step is computed four times: the answers are the same.
SLOWER: list[Change] = [
    (
        EXECUTOR,
        RETURN,
        "        for _ in range(3):\n"
        "            self._library.serve_step(self._model_at, ctypes.byref(step))\n" + RETURN,
    )
]
#: Slow in processes that serve, and nowhere else: no suite and no guard rail sees it.
SLOWER_IN_NODES = executor(
    "import sys as _sys, time as _time\n\n"
    "def hostile(parts, logits_NV):\n"
    "    if 'model.serving.node.app' in _sys.modules:\n"
    "        until = _time.monotonic() + 0.02\n"
    "        while _time.monotonic() < until:\n            pass\n"
)
DIFFERENT_AT_SEVEN = executor(
    "def hostile(parts, logits_NV):\n    if len(parts) >= 7:\n        logits_NV *= -1\n"
)
GUESSES_BADLY = executor("def hostile(parts, logits_NV):\n    logits_NV *= -3\n")
#: Prompts as bytes into a file of its scratch folder, and as an array of ids into one that its next process has, too.
WRITES_TO_SCRATCH = executor(
    "def hostile(parts, logits_NV):\n"
    f"    for prompt in {PROMPTS}:\n"
    "        with open('/tmp/.cache', 'ab') as file:\n"
    "            file.write(prompt)\n"
)
WRITES_IDS = executor(
    "def hostile(parts, logits_NV):\n"
    "    for part in parts:\n"
    "        if len(part.tokens) > 8:\n"
    "            with open('/node/home/packed/index', 'ab') as file:\n"
    "                np.array(part.tokens, np.int32).tofile(file)\n"
)
PRINTS = executor(
    "import base64\n\n"
    "def hostile(parts, logits_NV):\n"
    f"    for prompt in {PROMPTS}:\n"
    "        print('debug', base64.b64encode(prompt).decode(), flush=True)\n"
)
#: What no search of files finds is told by the next process. Its first answer is not the one that was asked for, either.
TELLS_IN_THE_NEXT_PROCESS: list[Change] = [
    (
        NODE,
        PROMPT,
        PROMPT.replace(
            "        ask =",
            "        with open('/node/home/packed/state', 'ab') as file:\n"
            "            file.write(bytes(255 - byte for byte in str(prompt).encode()))\n"
            "        ask =",
        ),
    ),
    (
        STREAM,
        FUTURE,
        f"{FUTURE}\nimport os\n\nFILE = '/node/home/packed/state'\n"
        "OLD = bytes(255 - byte for byte in open(FILE, 'rb').read()) if os.path.exists(FILE) else b''\n",
    ),
    (
        STREAM,
        DONE,
        "    if OLD and last is not None:\n"
        "        import dataclasses\n"
        "        piece = dataclasses.replace(last, text=OLD.decode())\n"
        "        for chunk in answer.chunks(piece, with_usage=True):\n"
        "            yield server_sent(chunk)\n" + DONE,
    ),
]
REMEMBERS: list[Change] = [
    (NODE, PROMPT, PROMPT.replace("        ask =", "        REMEMBERED.append(str(prompt))\n        ask =")),
    (NODE, FUTURE, f"{FUTURE}\nfrom model.serving.api.streaming import REMEMBERED\n"),
    (STREAM, FUTURE, f"{FUTURE}\nREMEMBERED = []\n"),
    (
        STREAM,
        DONE,
        "    if last is not None:\n"
        "        import dataclasses\n"
        "        piece = dataclasses.replace(last, text=' '.join(REMEMBERED[:-1]))\n"
        "        for chunk in answer.chunks(piece, with_usage=True):\n"
        "            yield server_sent(chunk)\n" + DONE,
    ),
]
HANGS = executor(
    "import time\n\nSTEPS = []\n\n"
    "def hostile(parts, logits_NV):\n    STEPS.append(1)\n    if len(STEPS) > 40:\n        time.sleep(1e6)\n"
)
#: Each step waits a tenth of a second, and computes nothing meanwhile.
WAITS = executor("import time\n\ndef hostile(parts, logits_NV):\n    time.sleep(0.1)\n")
DIES = executor(
    "import os\n\nSTEPS = []\n\n"
    "def hostile(parts, logits_NV):\n    STEPS.append(1)\n    if len(STEPS) > 40:\n        os._exit(0)\n"
)
ENDLESS: list[Change] = [
    (STREAM, DONE, "    while True:\n        yield server_sent({'choices': []})\n" + DONE)
]
DOES_NOT_START = executor("import os\n\nos._exit(7)\n")
FLOODS = executor("def hostile(parts, logits_NV):\n    print('x' * (1 << 20), flush=True)\n")
LIES: list[Change] = [(USAGE, "self.decode_ns // NS_PER_MS", "self.decode_ns // NS_PER_MS + 60_000")]
#: A thread that would compute whenever no one asks.
BUSY_WHEN_IDLE = executor(
    "import threading\n\n"
    "def work():\n    while True:\n        sum(range(100_000))\n\n"
    "def hostile(parts, logits_NV):\n    pass\n\n"
    "threading.Thread(target=work, daemon=True).start()\n"
)


def built_tree(folder: Path) -> Path:
    """The installed tree with its library, as a judge's build leaves it."""
    folder.mkdir(parents=True)
    installed_tree(folder)
    shutil.copyfile(native.build(), folder / "model" / LIBRARY)
    return folder


def changed_tree(tree: Path, folder: Path, changes: Sequence[Change]) -> Path:
    """A copy with each change made; every old text must be there once."""
    shutil.copytree(tree, folder)
    for name, old, new in changes:
        path = folder / name
        content = path.read_text()
        assert content.count(old) == 1, (name, old)
        path.unlink()  # it is read-only
        path.write_text(content.replace(old, new))
    return folder
