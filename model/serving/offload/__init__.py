"""Experts on an accelerator and on its host, moved by how often they are used."""
