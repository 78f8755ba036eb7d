"""What one example costs, and the metrics people read."""
