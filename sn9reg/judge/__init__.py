"""Whether a pair is registered, and how far off the map is."""
