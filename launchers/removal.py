"""How is a folder removed that a program wrote? As a command for a shell, for whoever cleans a node: words in "$@"."""

from __future__ import annotations

REMOVE = 'rm -rf -- "$@" 2>/dev/null || { chmod -R u+rwX -- "$@" 2>/dev/null; rm -rf -- "$@"; }'
"""Python leaves what the kernel's overlay makes unreadable, and rm what a program did, unless root calls it."""
