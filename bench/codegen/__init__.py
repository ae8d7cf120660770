"""What the kernels compile to, for GPUs that need not be there.

`points` says what is compiled, `tritonlstm.tuning` compiles it and reads the machine code, `table` compares the figures
with the committed ones. `python -m bench.codegen` prints them.
"""
