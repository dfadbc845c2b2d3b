"""Attacks on a sandbox of this machine: `gainshare sandbox-test`."""
