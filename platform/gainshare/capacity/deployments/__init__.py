"""Deployments: from a merged tree to the tree that answers, by canary, handover and, where it must be, rollback."""
