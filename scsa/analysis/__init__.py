"""Functions behind tools/analysis and tools/visualization, which only parse arguments."""
