"""Glossary: every term of the app in plain words, each with an address of its own."""

import streamlit as st

from ui import glossary, shell

with shell.page("Glossary"):
    st.caption("Plain words first, then what exactly is meant. Help texts (?) on the other pages lead here.")
    for group, terms in glossary.GROUPS.items():
        st.header(group)
        for term in terms:
            st.subheader(term.name, anchor=term.anchor)
            st.markdown(f"{term.help}\n\n{term.more}" if term.more else term.help)
