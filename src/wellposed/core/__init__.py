"""What every room stands on: errors, selectors, numbers, the registry, random streams, progress, files."""
