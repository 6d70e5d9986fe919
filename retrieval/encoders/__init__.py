"""Text to sparse weights, one model family a file."""
