"""x, y: what a model learns from, and the splits that keep it honest."""
