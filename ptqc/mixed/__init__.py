"""Mixed precision: what choices cost on the target, which are taken, and what comes of them."""
