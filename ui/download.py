"""A button that takes a file away."""

from collections.abc import Callable

import streamlit as st


def button(
    label: str, content: str | bytes | Callable[[], str | bytes], file_name: str, mime: str | None = None, **more
) -> None:
    """Gives the file that `content` is, or makes when it is asked for. The page is not run again by the click: each run
    drops what the buttons of the one before would have made, and would race with the making of it."""
    st.download_button(label, content, file_name, mime, **{"icon": ":material/download:", **more}, on_click="ignore")
