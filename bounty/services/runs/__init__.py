"""Runs: their order in the queues, leases, logs, verdicts, and the runs that follow a price."""
