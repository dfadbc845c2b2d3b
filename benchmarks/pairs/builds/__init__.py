"""Builds of trees in the sandbox, and what is remembered of them."""
