"""Programs that use the package; not installed."""
