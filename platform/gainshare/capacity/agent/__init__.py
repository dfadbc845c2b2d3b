"""The node agent: starts, watches, drains and ends the model nodes of one host, as the site orders."""
