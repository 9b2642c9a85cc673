"""What measures: time and memory of modules and models, held against the bars."""
