"""Dense template matching over a whole scene: lattice of templates, tiles of features, fields from surfaces."""
