"""How long a plan takes and must take at least: the rates of a machine, measured or given, and the cost model."""
