"""What the agent and the coordinator share; no service logic."""

__version__ = "0.1.0"
