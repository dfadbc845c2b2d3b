"""What changes the bounty app's rows, the ledger and the queues. Keyword-only; each opens its own transaction."""
