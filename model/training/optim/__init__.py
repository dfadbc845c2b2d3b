"""Optimisers, learning-rate schedules, number formats and averages of weights."""
