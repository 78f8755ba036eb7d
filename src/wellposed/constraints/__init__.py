"""What weights are allowed: sets with exact projections."""
