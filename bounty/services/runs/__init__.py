"""Runs: queues, leases, logs, verdicts, guard runs and re-measurements."""
