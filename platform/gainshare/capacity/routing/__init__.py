"""Which node answers a request: its analysis, estimates of each node, and the choice."""
