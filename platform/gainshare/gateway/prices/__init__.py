"""Prices of tokens as the gateway's usage decides them: drafts, proposals by measured savings, and bills before the gains."""
