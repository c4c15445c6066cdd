"""What of a text can be seen.

Texts of others (names of folders and classes, notes, files of a shared run) may hold signs that move, hide or reverse
what stands beside them. Wherever such a text is shown, each of these signs is seen as «�».
"""

import re

LONGEST = 2000  # characters that are drawn of one text

# Controls, direction marks, widths of nothing, halves of a character.
UNSEEN = re.compile(
    "[\u0000-\u0008\u000e-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def line(text: object, longest: int = LONGEST) -> str:
    """`text` on one line, at most `longest` characters, each sign that is not to be seen replaced by «�»."""
    seen = str(text)
    shown = UNSEEN.sub("\ufffd", re.sub(r"\s+", " ", seen[:longest]))
    return f"{shown}…" if seen[longest:] else shown
