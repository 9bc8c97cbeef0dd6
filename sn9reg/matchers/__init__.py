"""One file per correspondence source; `base.py` holds the contract."""
