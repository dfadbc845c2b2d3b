"""What people type into forms: amounts, text, files; and forms that are sent once."""
