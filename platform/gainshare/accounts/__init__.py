"""People: users, roles and API keys. Knows nothing of credits or bounties."""
