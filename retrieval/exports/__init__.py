"""Sparse vectors of an index, or of files, as other engines read them: one file a format ([exports.md](docs/exports.md))."""
