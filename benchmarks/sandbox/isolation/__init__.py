"""How a sandbox is closed: bubblewrap, containers, system-call filter, users, and what is inside."""
