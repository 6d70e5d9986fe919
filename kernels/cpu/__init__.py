"""Loops for the processor, one algorithm a file."""
