"""What every other folder speaks of: a layer's options, its tensors, their sizes, dtypes and devices, and the checks."""
