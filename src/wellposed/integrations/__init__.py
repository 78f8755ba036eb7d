"""How does it work in somebody's trainer? One file a library: thin adapters around `regularize`, `Watch` and `diagnose`."""
