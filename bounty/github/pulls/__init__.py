"""Pull requests: seen, sealed, judged; commands in their comments are read and answered."""
