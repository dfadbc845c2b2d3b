"""What the judge and a sample send each other: frames, messages, sealed memory."""
