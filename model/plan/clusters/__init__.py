"""Descriptions of clusters, one TOML file each; `model/plan/cluster.py` reads them."""
