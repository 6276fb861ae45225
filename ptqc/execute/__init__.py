"""Running graphs: sessions of onnxruntime, tensors inside a graph, fusion and latency."""
