"""Supervision of processes on one machine: start, watch, restart, and stop them."""
