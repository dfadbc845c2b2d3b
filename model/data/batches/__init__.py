"""Batches of tokenised documents: order, packing, padding, curriculum, streams."""
