"""From tokenised documents to batches: order, packing, padding, curriculum, streams."""
