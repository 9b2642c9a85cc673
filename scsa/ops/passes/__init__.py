"""The passes over the map: the same functions in PyTorch and in Triton."""
