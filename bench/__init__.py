"""Benchmarks and code-generation checks; not installed."""
