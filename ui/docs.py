"""Parts of the project's own documents on a page: where a figure comes from stands beside it, without a network."""

import functools
import re
from pathlib import Path

import streamlit as st

FOLDER = Path(__file__).parents[1] / "docs"


@functools.cache
def section(name: str, heading: str) -> str:
    """Markdown of the section with this heading (of the second level) of a document; "" where the installation has no
    documents. `ValueError` where the document has no such section."""
    path = FOLDER / name
    if not path.is_file():
        return ""
    for part in re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
        title, _, text = part.partition("\n")
        if title.strip() == heading:
            return text.strip()
    raise ValueError(f"{path} has no section «{heading}».")


def show(name: str, heading: str, label: str) -> None:
    """Folded away; what the document says is the project's own text, and no one else's."""
    if text := section(name, heading):
        with st.expander(f"{label} (docs/{name}, «{heading}»)"):
            st.markdown(text)
