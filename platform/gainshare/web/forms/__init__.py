"""Form fields for amounts, text and files; and forms that take effect once."""
