"""Diffs, patches, trees, and which paths a patch may touch."""
