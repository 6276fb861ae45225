"""Choosing the integers of weights and biases once their scales are known."""
