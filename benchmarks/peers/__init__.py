"""The stack compared with its peers, in one run on one core: training against transformers, serving against three engines.

    python -m benchmarks.peers train [--json] [--quick]
    python -m benchmarks.peers serve [--json] [--quick] [--setup]

Each side is a separate process (`drivers/`), in its own environment where it is a peer's, held on one core and stopped
while it is not asked. Sides take turns in random order and are compared turn by turn, so that what drifts on the machine
meets all of them. All sides have the same weights, and what they answer is checked.
"""
