"""How right a result is."""
