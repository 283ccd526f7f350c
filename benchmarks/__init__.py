"""Benchmarks: `python -m benchmarks NAME` prints one JSON line, a ratio of two things measured in one run."""
