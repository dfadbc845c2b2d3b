"""The GitHub App: its credentials, its client, and what GitHub says, as plain facts."""
