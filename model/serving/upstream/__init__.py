"""Another OpenAI-compatible server as a node's backend. Protected."""
