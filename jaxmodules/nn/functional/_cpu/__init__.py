"""Algorithms that the CPU takes instead of XLA's primitives, one family per file, and the rules that choose them."""
