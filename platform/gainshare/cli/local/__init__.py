"""Commands of a site on this machine: up, down, status, the self-test of its sandbox."""
