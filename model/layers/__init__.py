"""Building blocks of the transformer, one per file.

Shape suffixes: T tokens, B sequences, S positions, D model width, F feed-forward width, E experts, K chosen
experts, H query heads, G key/value heads, C head width, V vocabulary, N rows of sorted (token, choice) pairs.
"""
