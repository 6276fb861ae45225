"""Choosing the precision of every node and building the plan."""
