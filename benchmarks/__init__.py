"""What ``make bench`` runs: ptqc and onnxruntime.quantization on the same real models, with the same script."""
