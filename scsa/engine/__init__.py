"""What tools/train.py and tools/test.py do around mmengine's runner."""
