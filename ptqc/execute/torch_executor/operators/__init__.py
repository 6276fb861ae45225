"""What each operator computes in torch, one file a family; :mod:`ptqc.execute.torch_executor.registry` finds them."""
