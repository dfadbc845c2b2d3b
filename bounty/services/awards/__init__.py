"""Awards: what follows a passed run, step by step, until the award is vested or void.

`advance` takes every step that is due from the table in `steps`; `gains` and `fixes` say where their paths differ;
`booking` books a confirmed gain; `lifecycle` moves an award and its money from reserved to vested, void or reversed.
"""
