"""The Mixture-of-Experts layer: router, experts, capacity, balance and what they report."""
