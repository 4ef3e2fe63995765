"""Values that the whole of Orlop speaks about: frozen, hashable where it matters, free of I/O."""
