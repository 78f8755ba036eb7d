"""What holds a run back, and which lever to pull: findings with their uncertainty, from curves and from inside the network."""
