"""Many pairs, many matchers."""
