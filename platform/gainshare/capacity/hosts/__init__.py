"""The site's side of hosts: tokens, heartbeats, and the life cycle of nodes."""
