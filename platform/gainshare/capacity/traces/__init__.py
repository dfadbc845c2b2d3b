"""Request traces: formats that are read, and the product's own generator. Pure."""
