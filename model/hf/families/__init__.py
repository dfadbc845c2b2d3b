"""Hugging Face's model types: rules for configuration and names of weights."""
