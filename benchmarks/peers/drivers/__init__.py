"""Programs of the processes that are compared. A peer's driver imports its engine and the standard library alone."""
