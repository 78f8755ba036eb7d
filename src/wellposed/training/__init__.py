"""Problems, runs and their histories; the training loop; watching somebody else's loop."""
