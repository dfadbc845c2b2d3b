"""A stand-in for GitHub on one's own machine: REST, OAuth, webhooks and git over real HTTP. Never in a deployment."""
