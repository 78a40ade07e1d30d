"""Triangle: three adapters, and the landscape that they span."""
