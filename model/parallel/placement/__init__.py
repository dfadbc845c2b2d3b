"""Which device computes which part of a step, from measured rates."""
