"""Placement of the parts of a step on devices, from measured rates."""
