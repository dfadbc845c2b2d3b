"""The `gainshare` command."""
