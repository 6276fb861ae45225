"""Graphs as torch modules: the same values as onnxruntime, with gradients and any tensor inside at hand."""

import os

# Before torch loads its threads: waiting ones would burn a core each, and where cores are shared every small operation
# would wait for a thread that has none.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
