"""Many recipes trained at once: as one program where the model allows it."""
