"""Start the code of the web process and of the control worker in fresh interpreters and look for torch."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping

from benchmarks.report import Row

TARGETS = {
    "web": "import gainshare.config.asgi; import importlib; importlib.import_module('gainshare.config.urls')",
    "control worker": (
        "import os; os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'gainshare.config.settings'); "
        "import django; django.setup(); "
        "from gainshare.config.celery import app; app.loader.import_default_modules()"
    ),
}
PROBE = """
import json, sys, time
begun = time.monotonic()
{code}
heavy = sorted({{name.split(".")[0] for name in sys.modules}} & {{"torch", "deepspeed"}})
print(json.dumps({{"seconds": time.monotonic() - begun, "heavy": heavy}}))
"""


def import_rows() -> list[Row]:
    """One row a process: seconds to import; holds when neither torch nor deepspeed came with it."""
    rows = []
    for name, code in TARGETS.items():
        seconds, heavy = _probe(code)
        rows.append(
            Row(
                name=f"import of {name} without torch",
                value=round(seconds, 2),
                unit="s",
                target="no torch",
                holds=not heavy,
                how=f"fresh interpreter; torch modules found: {', '.join(heavy) or 'none'}",
            )
        )
    return rows


def _probe(code: str) -> tuple[float, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(code=code)],
        env=_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return float(found["seconds"]), list(found["heavy"])


def _environment() -> Mapping[str, str]:
    return {**os.environ, "GAINSHARE_SECRET_KEY": "import-probe", "DATABASE_URL": "postgresql:///unused"}
