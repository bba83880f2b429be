"""Launching: finds the allocation, runs one PRTE DVM on it, and starts instances (MPI jobs of workers) in it."""
