"""Candidates of a search put into a better order, one method a file."""
