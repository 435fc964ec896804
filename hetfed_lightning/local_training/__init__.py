"""A local step: what optimizes, scales, clips and ends it."""
