"""Small circuits: one circuit for many sets of parameters, side by side in the lanes of a vector."""
