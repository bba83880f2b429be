"""From the sweeps of a plan to the flat arrays that kernels read: few passes over a block, not many gates. Pure."""
