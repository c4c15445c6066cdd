"""The one way in which text of others comes onto a page: as the text that it is.

Links, files of a shared run, names of folders and classes, notes, and names of uploads may hold anything: an image to
fetch, a link to follow, a direction mark that turns the line around. Streamlit reads Markdown in most texts (labels,
tooltips, captions, messages, cells of tables), Plotly reads HTML in all of its own. So a page writes such text by

    plain(text)     where Markdown is read
    markup(text)    where HTML is read: `st.html`, and every text of a chart
    line(text)      where text stays text: code blocks, choices of a selectbox, data frames, tiles

and a text of the page's own is written as it stands.
"""

import html
import re

from engine.visible import LONGEST, UNSEEN, line

__all__ = ["JOINER", "LONGEST", "UNSEEN", "line", "markup", "plain"]

JOINER = "\u2060"  # no width: what stands on its two sides is no longer one word to Markdown's readers

SIGNS = re.compile(r"[\\`*_{}\[\]<>#!|~$&]")
LIST_SIGN = re.compile(r"^([-+=]|\d{1,9}(?=[.)]))")
# Looked for by Streamlit after Markdown was read, so that a backslash before them says nothing: `:name:` and `:red[`,
# addresses (https://, www., name@), arrows. «test:7» is none of these.
WORDS = re.compile(r":(?=\S)(?!\d+(?![\w:+-]))|@|www(?=\.)|[-<>~](?=[-=>])", re.IGNORECASE)


def plain(text: object) -> str:
    """`line(text)` as Markdown that shows exactly that."""
    parted = WORDS.sub(rf"\g<0>{JOINER}", line(text).strip())
    return LIST_SIGN.sub(_escaped_list_sign, SIGNS.sub(r"\\\g<0>", parted))


def _escaped_list_sign(match: re.Match) -> str:
    return f"{match[0]}\\" if match[0].isdigit() else f"\\{match[0]}"


def markup(text: object) -> str:
    """`line(text)` as HTML that shows exactly that, also within one of Plotly's templates («%{x}»)."""
    return html.escape(line(text)).replace("%{", f"%{JOINER}{{")
