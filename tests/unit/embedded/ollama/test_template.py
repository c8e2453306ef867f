"""Chat templates."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleetssd.embedded.ollama.template import edit_distance, go_template_error, is_chatml, render_chatml

TEXT = st.text("ab<|>", max_size=12)
JINJA = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_chatml_is_known_by_its_likeness() -> None:
    """Another way to write it is chatml; a template of another family is not."""
    assert [is_chatml(text) for text in (JINJA, "{{ bos_token }}[INST] {{ messages[0].content }} [/INST]", "")] == [
        True,
        False,
        False,
    ]


@given(TEXT, TEXT, TEXT)
def test_edit_distance_is_a_metric(a: str, b: str, c: str) -> None:
    """It is zero for equal texts alone, symmetric, and no detour is shorter."""
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, b) == edit_distance(b, a)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


def test_neighbours_of_one_role_are_joined() -> None:
    """Two messages of the user in a row become one, an empty line between."""
    turns = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    assert render_chatml(turns) == "<|im_start|>user\na\n\nb<|im_end|>\n<|im_start|>assistant\n"


def test_jinja_sent_as_a_template_is_refused_in_gos_words() -> None:
    """Go's parser takes the loop variable for a function; real Go templates pass."""
    assert go_template_error("\n" + JINJA) == 'template error: template: :2: function "m" not defined'
    assert go_template_error("{{- range .Messages }}{{ .Content }}{{ end }}{{ if .System }}x{{ end }}") is None
