"""Calibration: where data comes from, what is observed of it, and the ranges chosen from that."""
