"""Rewrites of a graph, one file each; :mod:`ptqc.passes.registry` lists them."""
