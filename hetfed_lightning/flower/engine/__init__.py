"""The engine's processes, started, watched and stopped; nothing is learned here."""
