"""What a training run is: its TOML file's tables, read and checked. Does not import torch."""
