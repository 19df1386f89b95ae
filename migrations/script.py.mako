"""${message}

Why: …
Cost: …
Undo: …

The previous version of the code must work with the schema after this migration: nodes and
workers are not updated at the same moment as the catalogue. Add first, fill, remove a version later.

Revision: ${up_revision}, after ${down_revision | comma,n}, made ${create_date}.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Text
from sqlalchemy.dialects import postgresql
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
