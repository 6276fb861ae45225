"""Figures and their presentation: metrics, comparison by layer, text, JSON, HTML, plots."""
