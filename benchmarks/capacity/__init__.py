"""Capacity measured and simulated: what each scaling policy costs, and an engine's rates that simulations rest on."""
