"""The Gainshare site: accounts, credits, the model-access gateway and the shell that `bounty` plugs into."""
