"""The mesh of ranks: its axes, processes, and each rank's share of a model."""
