"""Tables: columns of numbers and a column of classes, from CSV, JSON lines or Parquet files (pyarrow reads them)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from conf.bounds import Text, group
from trainer.data import files, tabular
from trainer.data.splits import By
from trainer.data.tabular import Columns
from trainer.sources import Data, Preview

if TYPE_CHECKING:
    from trainer.data.listed import Listed
    from trainer.data.records import Records

WAYS: tuple[By, ...] = ("stratified", "random", "end", "column", "time", "filter")


@group
class Options(Columns):
    """Which files; which columns is a Columns'."""

    path: Text
    """Folder of the files, or one file."""
    glob: Text = "**/*"
    """Which files below the folder; of these, those that end in .csv, .tsv, .jsonl, .ndjson or .parquet."""


def preview(options: Options) -> Preview:
    """Columns of numbers."""
    return tabular.preview_of(options, WAYS)


def load(options: Options) -> Data:
    """The rows of all files in their parts.

    Raises UserError for what is wrong with the files, saying file, row and column.
    """
    return tabular.data_of(_records(options), options, Path(options.path).name, f"{options.path}/{options.glob}")


def listed(options: Options) -> Listed:
    """The rows of all files."""
    from trainer.data import listed

    return listed.of_table(_records(options), options)


def _records(options: Options) -> Records:
    from trainer.data import columns

    return columns.records_of(files.found(options.path, options.glob, columns.SUFFIXES))
