"""What a raster is, and nothing about matching."""
