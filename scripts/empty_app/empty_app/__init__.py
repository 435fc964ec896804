"""An app that learns nothing."""
