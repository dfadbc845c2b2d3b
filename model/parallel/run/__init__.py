"""A training run on several processes of one machine."""
