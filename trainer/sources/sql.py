"""The rows of an SQL query: columns of numbers and a column of classes, from any database that SQLAlchemy knows.

The URL, with its password, comes from an environment variable, and stands in no file. The rows are fetched once per
node and run; a run that is given other rows than at first, on another node or later, ends and says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from conf.bounds import Text, VariableName, group
from trainer.data import tabular
from trainer.data.splits import By
from trainer.data.tabular import Columns
from trainer.failure import UserError
from trainer.sources import Data, Preview

if TYPE_CHECKING:
    from trainer.data.listed import Listed

WAYS: tuple[By, ...] = ("stratified", "random", "column", "time", "filter")
KNOWN = "rows.sha256"
"""File of a member: the digest of the rows that its first attempt was given."""


@group
class Options(Columns):
    """Which database and query; which columns is a Columns'."""

    url_env: VariableName
    """Name of the environment variable with the database's URL: dialect+driver://user:password@host/database."""
    query: Text
    """One SELECT. Its ORDER BY means nothing: rows are sorted by all columns, the first one first."""


def preview(options: Options) -> Preview:
    """Columns of numbers."""
    return tabular.preview_of(options, WAYS)


def load(options: Options) -> Data:
    """The rows in their parts.

    Raises UserError for what is wrong with the URL, the query or its rows, and when the rows are not those of before.
    """
    from trainer.data import query

    records = query.records_of(options.url_env, options.query)
    data = tabular.data_of(records, options, options.url_env, f"${options.url_env}: {options.query}")
    if member := os.environ.get("FAIRLEAD_MEMBER_DIR"):
        parts = " ".join(card.digest for _, card in data.cards)
        _must_be_known(Path(member), hashlib.sha256(parts.encode()).hexdigest())
    return data


def listed(options: Options) -> Listed:
    """The rows of the query."""
    from trainer.data import listed, query

    return listed.of_table(query.records_of(options.url_env, options.query), options)


def _must_be_known(member: Path, digest: str) -> None:
    """The first to come writes the digest down; a link appears whole, and only once."""
    aside = member / f".{KNOWN}.{os.uname().nodename}.{os.getpid()}"
    aside.write_text(digest)
    with contextlib.suppress(FileExistsError):
        (member / KNOWN).hardlink_to(aside)
    aside.unlink()
    if (known := (member / KNOWN).read_text()) != digest:
        what = f"the query gives other rows (digest {digest[:12]}) than when this member began ({known[:12]})"
        do = "query what does not change, such as a snapshot, or write the rows to files; or launch anew"
        raise UserError(what, "data.query", do)
