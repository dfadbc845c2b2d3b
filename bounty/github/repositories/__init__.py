"""Repositories that lineages are bound to: fetched without a checkout, read, and followed when they are pushed to."""
