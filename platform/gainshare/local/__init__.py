"""Local mode: the embedded PostgreSQL and broker, and the supervisor of every process on one machine."""
