"""Configuration of a training run: its TOML file's tables, read and checked. Does not import torch."""
