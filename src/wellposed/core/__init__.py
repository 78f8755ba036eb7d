"""What every room stands on: errors, selectors, the registry, random streams, progress, files."""
