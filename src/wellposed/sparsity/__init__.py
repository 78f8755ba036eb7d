"""What is zero, and what is left without it? ``compress`` makes a smaller network with equal outputs."""
