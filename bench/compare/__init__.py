"""Two versions of this package timed in one run, in turns: `make bench-compare BASE=<git ref>`."""
