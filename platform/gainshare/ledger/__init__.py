"""Credits: double-entry accounts, two-phase transfers, grants, escrow, holds and the price book. Knows nothing of bounties."""
