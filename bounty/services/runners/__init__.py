"""Runners: registration, what they ask of the platform, their noise, quarantine, and what maintainers do."""
