"""Graphs as torch modules: the same values as onnxruntime, with gradients and any tensor inside at hand."""
