"""The Gainshare site: accounts, credits, the model-access gateway and the page shell that `bounty` extends."""
