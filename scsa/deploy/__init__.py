"""Take a trained model out of PyTorch: ONNX, and int8 of that."""
