"""A machine that executes, on a CPU, the PTX that Triton compiles for NVIDIA GPUs.

parser.py reads the text; arithmetic.py and approximate.py compute; registers.py has the threads' values; memory.py,
arguments.py and accesses.py check every access, outputs.py says what is written; machine.py runs the threads;
compiler.py and launch.py put all of it where the package launches its kernels.
"""

import os

ON_PTX = os.environ.get("TRITONLSTM_PTX") == "1"
"""Whether `make ptx-check` runs the tests: every case of them on the machine, not a selection."""
