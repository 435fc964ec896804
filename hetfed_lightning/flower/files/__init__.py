"""Files of a deployment, for every role: its folder, paths in its configurations, certificates, initial weights."""
