"""A benchmark runner: its client of the platform, leases, settings, reports, device."""
