"""Our systems in other harnesses: beir's EvaluateRetrieval, and mteb."""
