"""Attention: grouped-query (GQA) and multi-head latent (MLA), masks, rotary embedding."""
