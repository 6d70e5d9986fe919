"""Dense vectors: stored as they are, searched exactly or by what FAISS finds, every score the exact one."""
