"""Value types and arithmetic that every other package shares; nothing here reads or writes files."""
