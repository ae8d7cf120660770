"""What every other folder uses: a layer's options, its tensors, their sizes, dtypes and devices, and the checks."""
