"""Commands of the pool: hosts, agents, scaling, simulations of it."""
