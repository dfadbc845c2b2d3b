"""Statistics of the judge: pure functions of numbers, the same bits on every machine.

Only correctly rounded operations decide anything here (integers, fractions, `math.fsum`, `math.sqrt`): no SIMD sum
whose order depends on the processor, no random numbers. Nothing knows of clocks, processes or documents.
"""
