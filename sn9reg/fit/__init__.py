"""Models of displacement, and which of them to believe."""
