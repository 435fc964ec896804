"""Distillation from an ensemble of teachers: settings, their outputs on the public set, and who learns from them."""
