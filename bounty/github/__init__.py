"""GitHub: repositories that lineages are bound to, the App, its events, pull requests, and what is reported to them."""
