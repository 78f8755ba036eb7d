"""One small class for each finding; the folder is searched for them."""
