"""Reports of a run: events, progress, logs, charts, throughput and its peak."""
