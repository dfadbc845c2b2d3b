"""Programs that try to break out, run inside a sandbox by `benchmarks.sandbox.self_test`. One file per family."""
