"""Matchers of photographs, as the package `vismatch` has them."""
