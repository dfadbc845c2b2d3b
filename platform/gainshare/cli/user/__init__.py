"""Commands of model users: keys, credits, models, a chat."""
