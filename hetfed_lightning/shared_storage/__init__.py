"""Storage that participants have in common: copy-on-write weights, and equal tensors kept once."""
