"""Commands of maintainers: bounties, lineages, runners, deployments, prices, reversals, the emergency stop."""
