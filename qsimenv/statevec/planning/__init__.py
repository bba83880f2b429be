"""From gates to a plan: programs, steps, stages of sweeps. Values and pure functions; nothing here touches a state."""
