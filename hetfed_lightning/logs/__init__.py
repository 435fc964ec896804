"""Figures of participants: kept, counted, reduced and written; nothing here knows a federation."""
