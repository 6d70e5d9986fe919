"""Is it any good, and how fast? Data sets, runs, measures, latency, reports."""
