"""What the kernels compile to, for GPUs that need not be there.

`points` says what is compiled, `capture` turns a launch into a compilation, `inspect` reads the machine code, `table`
compares it with the committed figures. `python -m bench.codegen` prints them.
"""
