"""Narrow circuits without parameters, gate by gate: no table, no plan and no encoding for what is run once."""
