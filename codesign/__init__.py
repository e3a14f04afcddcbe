"""codesign: hardware simulation and co-design explorer for neural networks."""
