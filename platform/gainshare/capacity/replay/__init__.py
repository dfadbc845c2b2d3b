"""What users pay for a trace, against a flat tariff: real prices over a model of the prefix cache. Pure."""
