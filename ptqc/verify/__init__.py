"""Proofs about integer graphs, and engines run against each other."""
