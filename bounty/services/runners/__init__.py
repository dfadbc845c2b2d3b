"""Runners: registration, calls, noise, quarantine, and maintainers' actions."""
