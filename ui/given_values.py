"""A value that the app gives a widget counts until the browser has it: what the browser says of the widget till then is
nobody's choice.

Streamlit (1.67) gives a widget a value once, in the drawing in which the app sets it (`st.session_state[key] = …`). A
browser that has not shown that drawing when the next one comes, shows the next alone: its widget begins with a default
of its own, or stays at the value before. Each message of a browser says the values of all its widgets; so the next
click, whatever it is on, tells the server of that value as of a person's choice, and `on_change` is called for it. The
same happens where the click comes before the drawing does. Here

- such a widget is given its value again in each drawing, until a message has it;
- a value that the message before had as well is not taken where the message is about something else: a timer, a click,
  another widget. A message that is about nothing else is of a person who set the widget back.

As in `ui.delivery`, methods of Streamlit's classes are wrapped.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

ASKED = "asked by a person"  # beside the widgets of a message, as a click: it is no timer's


@dataclass
class Given:
    """Of one tab, by the widgets' ids. `values`, in the order in which they were given, are those that no message has
    had yet; `said` is what the last message had; `overtaken` is what was given to widgets in which a person chose
    before the browser showed it: it will, for a moment."""

    values: dict[str, Any] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)
    overtaken: dict[str, Any] = field(default_factory=dict)

    def taken(self, widgets) -> list:
        """Of a message, the states of `widgets` with the values that count."""
        here = {each.id: each for each in widgets if each.id != ASKED}
        said, self.said = self.said, {name: _value(each) for name, each in here.items()}
        changed = {name for name, value in self.said.items() if name in said and said[name] != value}
        differ = {
            name: value for name, value in self.values.items() if name in here and _value(value) != self.said[name]
        }
        late = {
            name: value
            for name, value in differ.items()
            if name in said and (name not in changed or self.overtaken.get(name) == self.said[name])
        }
        arrived = self.values.keys() & here.keys() - differ.keys()
        by_a_person = any(each.id == ASKED for each in widgets)
        about_else = changed - arrived - late.keys() or any(map(is_click, here.values()))
        if late and by_a_person and not about_else:
            late.pop(next(iter(late)))  # set back: what the browser has not shown yet is further down the page
        chosen = differ.keys() - late.keys()
        for name in chosen if late else ():  # the browser is behind, and has yet to show what was given there
            self.overtaken[name] = _value(self.values[name])
            self.values[name] = here[name]
        over = arrived if late else arrived | chosen
        self.values = {name: value for name, value in self.values.items() if name not in over}
        self.overtaken = {name: value for name, value in self.overtaken.items() if name in self.values}
        return [late.get(name, each) for name, each in here.items()]


def count() -> None:
    """For every page of this process, from now on."""
    from streamlit.proto.WidgetStates_pb2 import WidgetStates
    from streamlit.runtime.app_session import AppSession
    from streamlit.runtime.state.session_state import SessionState, WStates

    sessions: Any = AppSession
    states: Any = SessionState
    ask, rerun, register = sessions.request_rerun, states.on_script_will_rerun, states.register_widget

    def of(state) -> Given:
        return vars(state.query_params).setdefault("given_values", Given())  # of a state, what has room for it

    def ask_with_reason(session, asked) -> None:
        if asked is not None and not asked.is_auto_rerun:
            asked.widget_states.widgets.add(id=ASKED, trigger_value=True)
        ask(session, asked)

    def wire(metadata, value):
        one = WStates()
        one.set_widget_metadata(metadata)
        one.set_from_value(metadata.id, value)
        return one.get_serialized(metadata.id)

    def rerun_with_given(state, asked, **more) -> None:
        """With the lock of the tab, before what it does for the widgets that a message has changed."""
        known, given = state._new_widget_state.widget_metadata, of(state)
        for key, value in state._new_session_state.items():
            name = state._key_id_mapper.get_id_from_key(key, None)
            if name in known:
                given.values[name] = wire(known[name], value)
        given.values = {name: value for name, value in given.values.items() if name in known}
        if asked is not None:
            asked = WidgetStates(widgets=given.taken(asked.widgets))
        rerun(state, asked, **more)

    def register_again(state, metadata, user_key):
        result, given = register(state, metadata, user_key), of(state)
        if metadata.id in given.values:
            given.values[metadata.id] = wire(metadata, result.value)
            result = dataclasses.replace(result, value_changed=True)
        return result

    sessions.request_rerun, states.on_script_will_rerun, states.register_widget = (
        ask_with_reason,
        rerun_with_given,
        register_again,
    )


def _value(widget) -> Any:
    """None where a person left nothing chosen or written, which is said in two ways."""
    kind = widget.WhichOneof("value")
    value = getattr(widget, kind) if kind else None
    return (tuple(value.data) or None) if hasattr(value, "data") else value


def is_click(widget) -> bool:
    """Whether this is of a moment (a button, an event of a component), and no state."""
    kind = widget.WhichOneof("value") or ""
    return kind.endswith("trigger_value") and bool(getattr(widget, kind))
