"""One file per source of correspondences; `base` holds the contract."""

DEFAULT_MATCHER = "hybrid"
