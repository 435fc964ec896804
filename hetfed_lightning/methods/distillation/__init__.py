"""Distillation from an ensemble of teachers: settings, teachers' outputs on the public set, and students."""
