"""The node agent: one process a host that starts, ends and watches model nodes. It imports no Django."""
