"""People: users, roles and API keys."""
