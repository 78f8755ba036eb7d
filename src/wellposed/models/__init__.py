"""Networks to start from: ``f_w``."""
