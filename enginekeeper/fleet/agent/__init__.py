"""The agent that stays: tells the fleet's server that the node lives and what is on it.

It needs the standard library, pynvml and urllib3, and imports no registry: a test looks.
"""
