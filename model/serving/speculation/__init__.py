"""Draft tokens for an engine to verify: by multi-token prediction or by prompt lookup."""
