"""Evidence: one signed, content-addressed document per run, from which anyone can recompute the verdict.

`decision` is the one place where samples and events become a verdict; the judge and the verifier both call it.
docs/reference/evidence.md describes the document. Nothing here knows of processes, Django or torch.
"""
