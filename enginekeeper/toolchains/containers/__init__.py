"""Toolchains that are container images: the same steps, run by Docker, Podman, Apptainer, or a job.

Nothing of it has run in a real container runtime: none runs where it was written.
"""
