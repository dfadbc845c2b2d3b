"""The Mixture-of-Experts training and inference stack. No Django; importing this package does not import torch."""
