"""Dense template matching over a whole scene: lattice of templates, tiles of features, fields from surfaces."""

# Names of the matchers that are a file of their own here; each network is one more, see `networks/table.py`.
MATCHERS = ("hybrid", "ncc", "structure")
