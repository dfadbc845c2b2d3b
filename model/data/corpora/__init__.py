"""Documents as text: the corpora of this machine and of a hub."""
