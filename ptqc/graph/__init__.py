"""The graph (onnx_ir.Model): load, validate, walk, match, print, save."""
