"""Builds, proves and keeps TensorRT-LLM engines across a GPU fleet."""

__version__ = "0.1.0"
