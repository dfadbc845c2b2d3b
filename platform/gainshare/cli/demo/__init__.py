"""`gainshare demo`: the product's main job, end to end, on one machine.

It uses only what users have: the REST API with API keys, the real workers and judge, and the unmodified
`openai` client. `cases` says what is submitted and expected, `people` who does it, `scenario` what happens in
which order, `record` what is written down, `command` is the Typer command.
"""
