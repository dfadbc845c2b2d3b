"""Transport between the judge and a sample: frames, messages, sealed memory."""
