"""Triton kernels of the bench: bodies only."""
