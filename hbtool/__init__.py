"""hbtool: from a trained network to an integer program for an edge accelerator (BPU) and its CPU cores.

This package imports nothing at the top, so that `hbtool --help` stays fast; import the sub-packages you need.
"""

__version__ = "0.1.0"
