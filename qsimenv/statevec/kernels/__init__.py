"""Compiled code that works on the planes of a state, block by block, and what it is built from."""
