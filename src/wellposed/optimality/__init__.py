"""How far are weights from a minimum of their cost? Certificates on all rows, and the training phase that reaches them."""
