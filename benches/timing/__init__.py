"""Times what onemirror does, on the lab."""
