"""Scaling policies: pure functions from what was observed to the number of nodes wanted of each class."""
