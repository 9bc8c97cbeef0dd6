"""Matching networks: torch modules and nothing else, one file per published network, and the table of them."""
