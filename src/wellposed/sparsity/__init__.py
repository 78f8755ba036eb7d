"""What is zero, and what is left without it? The path of strengths, the features that it keeps, a smaller network."""
