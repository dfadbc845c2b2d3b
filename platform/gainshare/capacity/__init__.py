"""One pool of unlike machines: hosts and their nodes, routing, scaling policies, and replays of traces."""
