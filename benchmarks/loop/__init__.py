"""`python -m benchmarks.loop`: how fast the loop itself is, measured on a real local stack.

`judging` plays the demo and reads its record, `gateway` compares first tokens with and without the gateway,
`imports` starts the web and control processes' code and looks for torch, `noise` is A/A on this machine.
"""
