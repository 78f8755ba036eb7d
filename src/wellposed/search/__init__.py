"""Propose recipes, train them, choose one, and prove or deny that it is better."""
