"""Services: every change of the bounty app's rows, the ledger and the queues. Each opens its own transaction."""
