"""`gainshare demo`: the product's main job, end to end, on one machine.

It uses only what users have: the REST API with API keys, the real workers and judge, and the unmodified
`openai` client. `cases` has the diffs and their expected verdicts, `people` the users, `scenario` the steps
in order, `record` the report, and `command` the Typer command.
"""
