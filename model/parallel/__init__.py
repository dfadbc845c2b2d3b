"""Training one model on many ranks: pipeline x tensor x expert x data parallel.

`mesh/mesh.py` says which rank does what and imports no torch; the rest builds a rank's shard of the model and runs it.
Shape suffixes are those of model/layers, and N for rows of (token, choice) pairs.
"""
