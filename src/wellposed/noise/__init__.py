"""Noise on inputs, labels and activations: off in evaluation, and drawn from streams."""
