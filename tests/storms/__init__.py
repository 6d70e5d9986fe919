"""Long trials of the promises in docs/reliability.md; tests/end_to_end/test_storms.py runs each for a short while.

Each round is a child forked from a parent that has imported and compiled everything, so it costs milliseconds. The parent never
starts a thread that outlives a call, as a fork would not carry it along.
"""
