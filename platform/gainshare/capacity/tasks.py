"""Celery tasks of the pool. Each is repeatable; beat calls them again after a loss."""
