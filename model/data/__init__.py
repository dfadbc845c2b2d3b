"""Text to training batches: corpora, tokenizer, shards, packing, streams, curriculum."""
