"""Small programs that ask another engine, run by a Python that has it: each reads a request as JSON and prints its answer as JSON."""
