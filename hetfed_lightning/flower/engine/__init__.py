"""The engine's processes: how they are started, watched and stopped. Nothing here learns."""
