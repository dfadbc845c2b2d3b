"""Webhook deliveries: checked, kept once, parsed to facts and worked off; and what finds lost ones."""
