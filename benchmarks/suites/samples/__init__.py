"""The sandboxed halves of suites, mounted as files: they call the stack."""
