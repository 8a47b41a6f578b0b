"""vexp: declarative ablations for multimodal reinforcement learning."""

__version__ = "0.1.0"
