"""Give any text LLM ears without costing it its mind."""

__version__ = "0.1.0"
