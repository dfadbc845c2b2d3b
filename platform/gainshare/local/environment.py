"""Environments of the local stack's processes: each gets only the secrets that it needs.

The variables are those of `gainshare.config.settings`, `benchmarks.worker` and the model node.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gainshare.local.paths import Home
from gainshare.local.secrets import Secrets
from gainshare.local.supervision.processes import TAG

SYSTEM = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
OUTGOING = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
FAULTS = ("GAINSHARE_FAULT", "GAINSHARE_FAULT_DIR")
GITHUB = (
    "GAINSHARE_GITHUB_URL",
    "GAINSHARE_GITHUB_API_URL",
    "GAINSHARE_GITHUB_APP_ID",
    "GAINSHARE_GITHUB_CLIENT_ID",
    *(
        f"GAINSHARE_GITHUB_{secret}{file}"
        for secret in ("PRIVATE_KEY", "WEBHOOK_SECRET", "WEBHOOK_SECRET_OLD", "CLIENT_SECRET")
        for file in ("", "_FILE")
    ),
)
PLATFORM_OVERRIDES = (
    "GAINSHARE_RUN_LEASE_S",
    "GAINSHARE_RUN_MAX_ATTEMPTS",
    "GAINSHARE_RECHECK_PERCENT",
    "GAINSHARE_AA_INTERVAL_S",
    "GAINSHARE_TIP_CHECK_INTERVAL_S",
    "GAINSHARE_HOLD_S",
    "GAINSHARE_BEAT_INTERVAL_S",
    "GAINSHARE_OPEN_SIGNUP",
    "GAINSHARE_SIGN_UPS_PER_HOUR",
    "GAINSHARE_ALL_SIGN_UPS_PER_HOUR",
    "GAINSHARE_GITHUB_LEAST_DAYS",
    "GAINSHARE_SIGN_INS_PER_HOUR",
    "GAINSHARE_WRONG_PASSWORDS_PER_HOUR",
    "GAINSHARE_ALLOWED_HOSTS",
    "GAINSHARE_LOG_LEVEL",
    "GAINSHARE_DEBUG",
    "GAINSHARE_REPOSITORY_POLL_S",
    "GAINSHARE_REPOSITORY_HTTP",
    "GAINSHARE_SCALE_INTERVAL_S",
    "GAINSHARE_RAY_ADDRESS",
    "GAINSHARE_RAY_AGENT_COMMAND",
    *GITHUB,
    *FAULTS,
    *OUTGOING,
)
RUNNER_OVERRIDES = ("GAINSHARE_RUNNER_LOG_LEVEL", *FAULTS)
NODE_MEMORY = (
    "GAINSHARE_NODE_MEMORY_GIB"  # the node's limit of memory; three quarters of the machine's without it
)
NODE_OVERRIDES = ("OMP_NUM_THREADS", "GAINSHARE_KERNELS", "GAINSHARE_MODEL_FP32", NODE_MEMORY)


@dataclass(frozen=True)
class Environments:
    """Environments of one stack. `outer` is the supervisor's own, from which only named values are taken."""

    home: Home
    secrets: Secrets
    tag: str
    url: str
    database_url: str
    control_broker_url: str
    runner_broker_url: str
    node_url: str | None
    hardware: str
    outer: Mapping[str, str]

    def platform(self) -> dict[str, str]:
        """Web, control worker, beat and management commands."""
        return {
            **self._base(PLATFORM_OVERRIDES),
            "DJANGO_SETTINGS_MODULE": "gainshare.config.settings",
            "GAINSHARE_HOME": str(self.home.root),
            "GAINSHARE_BLOB_ROOT": str(self.home.blobs),
            "GAINSHARE_SECRET_KEY_FILE": str(self.secrets.django_key),
            "GAINSHARE_URL": self.url,
            "GAINSHARE_MODEL_NODES": self.node_url or "",
            "DATABASE_URL": self.database_url,
            "BROKER_URL": self.control_broker_url,
            "GAINSHARE_SCHEMAS": self.outer.get("GAINSHARE_SCHEMAS") or str(self.home.schemas),
        }

    def web(self) -> dict[str, str]:
        """Environment of the web process, which has the node's token, because the gateway runs in it."""
        return self.platform() | {"GAINSHARE_NODE_TOKEN_FILE": str(self.secrets.node_token)}

    def runner(self) -> dict[str, str]:
        """Environment of the runner: its queue, token and signing key, but no database and no control queue."""
        return {
            **self._base(RUNNER_OVERRIDES),
            "GAINSHARE_URL": self.url,
            "GAINSHARE_RUNNER_BROKER_URL": self.runner_broker_url,
            "GAINSHARE_RUNNER_TOKEN_FILE": str(self.secrets.runner_token),
            "GAINSHARE_RUNNER_KEY_FILE": str(self.secrets.runner_key),
            "GAINSHARE_RUNNER_HARDWARE": self.hardware,
            "GAINSHARE_RUNNER_HOME": str(self.home.runner),
            "GAINSHARE_KERNELS": self.outer.get("GAINSHARE_KERNELS") or str(self.home.kernels),
        }

    def node(self) -> dict[str, str]:
        """Environment of the model node's starter; the token is a file on its command line. The node inherits none."""
        return self._base(NODE_OVERRIDES) | {"GAINSHARE_HOME": str(self.home.root)}

    def agent(self) -> dict[str, str]:
        """Environment of the node agent, which its nodes' starters inherit; the host's token is a file."""
        return self._base((*NODE_OVERRIDES, "CUDA_VISIBLE_DEVICES", *FAULTS)) | {
            "GAINSHARE_HOME": str(self.home.root)
        }

    def server(self) -> dict[str, str]:
        """PostgreSQL and Valkey."""
        return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", TAG: self.tag}

    def _base(self, overrides: Iterable[str]) -> dict[str, str]:
        passed = {name: self.outer[name] for name in (*SYSTEM, *overrides) if name in self.outer}
        return {"PATH": os.defpath, "PYTHONUNBUFFERED": "1", **passed, TAG: self.tag}
