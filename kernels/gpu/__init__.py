"""Triton kernels, one algorithm a file; importing one needs Triton, running one a CUDA device."""
