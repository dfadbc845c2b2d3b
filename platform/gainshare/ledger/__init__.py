"""Credits: double-entry accounts, two-phase transfers, grants, escrow, holds and the price book."""
