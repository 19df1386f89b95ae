"""Timing caches of TensorRT: measured once per GPU and software, kept for the next build."""
