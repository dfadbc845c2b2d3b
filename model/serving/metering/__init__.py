"""What bills are made of: the engine's core, the jobs in it, and what each of them used. Protected."""
