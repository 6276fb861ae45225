"""Two passes for ptqc: one on onnx_ir, one on onnx-graphsurgeon."""
