"""What a run reports: events, progress, logs, charts, throughput and its peak."""
