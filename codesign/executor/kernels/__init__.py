"""Numeric kernels on plain arrays: no Graph, no Op. Imported only when a value is computed."""
