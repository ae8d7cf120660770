"""`python -m tritonlstm` is the command `tritonlstm`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
