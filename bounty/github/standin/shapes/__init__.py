"""What GitHub's REST API and webhooks show of each thing, as JSON. Pure: records in, dictionaries out."""
