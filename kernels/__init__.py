"""The Triton kernels: no PyTorch here, and nothing that allocates or launches. Installed as `tritonlstm.kernels`."""

if __name__ != "tritonlstm.kernels":
    raise ImportError(f"this package is tritonlstm.kernels; it was imported as {__name__}")
