"""Training losses and the objective that combines them."""
