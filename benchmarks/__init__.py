"""Measurements: each file is one, run by name with ``python -m benchmarks NAME``. Figures stand beside the machine."""
