"""The engine around its core: scheduler, sequences, block pool, fairness, constraints."""
