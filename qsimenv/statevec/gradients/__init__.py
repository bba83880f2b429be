"""Gradients of expectation values by the adjoint method."""
