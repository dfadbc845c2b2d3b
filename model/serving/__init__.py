"""The model node: cache, engine, usage counters, tokenizers and the HTTP server."""
