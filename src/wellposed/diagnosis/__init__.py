"""What the curves of a run say: findings with their uncertainty, and paired evidence that one run is better."""
