"""Tokenised documents on disk: Arrow IPC shards and their manifest."""
