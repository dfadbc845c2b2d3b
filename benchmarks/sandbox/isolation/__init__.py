"""Isolation of a sandbox: bubblewrap, containers, system-call filter, users, and its interior."""
