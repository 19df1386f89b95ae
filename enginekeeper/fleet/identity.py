"""Who works here, and on which node: what the audit log and the placements say of this process.

Nobody checks it; what must be believed is signed.
"""

from __future__ import annotations

import getpass
import os
import socket


def node_name() -> str:
    """Returns this host's name."""
    return socket.gethostname() or "localhost"


def actor() -> str:
    """Returns the user of this process and the host, as `anna@node-7`."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user has no name
        user = f"uid-{os.getuid()}"
    return f"{user}@{node_name()}"
