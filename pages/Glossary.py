"""Glossary: every term of the app in plain words, each with an address of its own."""

import streamlit as st

from ui import glossary, link, shell


def draw(term: glossary.Term) -> None:
    st.markdown(f"{term.help}\n\n{term.more}" if term.more else term.help)


with shell.page("Glossary"):
    st.caption("Plain words first, then what exactly is meant. Help texts (?) on the other pages lead here.")
    terms = {term.anchor: term for group in glossary.GROUPS.values() for term in group}
    # A browser would scroll to «#margin» before the page is long enough.
    if asked := terms.get(link.one_of("term", terms, "")):
        with st.container(border=True):
            st.header(asked.name, anchor=False)
            draw(asked)
    for group, of_group in glossary.GROUPS.items():
        st.header(group)
        for term in of_group:
            st.subheader(term.name, anchor=term.anchor)
            draw(term)
