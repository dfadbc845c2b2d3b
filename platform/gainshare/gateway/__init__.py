"""The OpenAI-compatible model-access API: authenticate, hold, stream, meter, settle."""
