"""Pages of a lineage: its tip and moves, production, law, repository, and reversals."""
