"""Metering: the engine's core, its jobs, and the usage that bills are made of. Protected."""
