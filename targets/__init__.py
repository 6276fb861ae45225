"""What each back end can run, and which passes lower a planned graph for it."""
