"""Lucene as a system of the harness: BM25, or the impacts of one of our encoders, searched through Pyserini in a process of its own."""
