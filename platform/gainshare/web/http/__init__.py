"""Middleware and handlers of the site: limits, policies, compression, and error pages."""
