"""Management commands of local mode."""
