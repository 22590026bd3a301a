"""The agent on a device: one service."""
