"""`gainshare demo --github`: a pull request earns credits, against the stand-in for GitHub and a whole local stack."""
