"""Tables in a terminal: no lines, numbers always whole, and only the columns of names giving way where it is narrow."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text


def plain_table() -> Table:
    return Table(box=None, header_style="dim", pad_edge=False)


def heading(text: str) -> Text:
    """A line above a table. (A title of the table's own would wrap at the table's width.)"""
    return Text(text, "bold")


def add_names(table: Table, title: str, most: int = 54) -> None:
    """A column of `shrinking` texts, at most `most` wide."""
    table.add_column(title, max_width=most)


def add_numbers(table: Table, *titles: str) -> None:
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)


def add_words(table: Table, title: str, most: int = 14) -> None:
    """A column of short words, cut at `most` and never narrower than they are."""
    table.add_column(title, overflow="ellipsis", no_wrap=True, max_width=most)


def shrinking(text: str) -> Text:
    """Foreign text on one line, cut where its column is too narrow."""
    return Text(text, no_wrap=True, overflow="ellipsis")
