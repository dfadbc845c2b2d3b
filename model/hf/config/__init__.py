"""Fields of `config.json`, to and from a `ModelConfig`."""
