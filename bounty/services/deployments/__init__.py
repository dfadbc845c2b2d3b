"""What of a lineage runs in production: deployments of its tip, asked for by a maintainer or by the lineage's setting."""
