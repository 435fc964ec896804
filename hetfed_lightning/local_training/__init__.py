"""Local training steps of a participant: optimization, loss scaling, clipping, DP-SGD."""
