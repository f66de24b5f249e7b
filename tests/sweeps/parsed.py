"""A page of HTML taken apart: its tags, its scripts, and what is read."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "br", "img", "link", "input"}


class Parsed(HTMLParser):
    """Every tag with its attributes, the text of scripts, and the text that is read."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.read: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {k: v or "" for k, v in attrs}
        self.tags.append((tag, named))
        if tag == "script":
            self.scripts.append((named, ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attrs, text = self.scripts[-1]
            self.scripts[-1] = (attrs, text + data)
        elif not self.open or self.open[-1] != "style":
            self.read.append(data)

    def figures(self) -> dict[str, Any]:
        return {
            attrs["id"].removeprefix("data-"): json.loads(text)
            for attrs, text in self.scripts
            if attrs.get("type") == "application/json"
        }

    def words(self) -> str:
        return " ".join("".join(self.read).split())
