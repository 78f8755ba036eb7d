"""Is a difference real? Intervals over crossed rows and seeds, the power of a comparison, power laws, `compare`."""
