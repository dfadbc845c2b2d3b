"""OpenAI's requests and answers: fields, prompts, text, streams, errors. Protected."""
