"""Texts to leaves: paths, values and lines, and what happens to texts that are none of their form."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.audit import Source, form_of, parse
from fleetssd.audit.keys import address, canonical, shown
from fleetssd.audit.leaves import DEPTH
from fleetssd.audit.texts import MAX_LEAVES, Form

WORDS = st.text("abcxyz_", min_size=1, max_size=6)
TREES = st.recursive(
    st.one_of(st.integers(0, 99), WORDS, st.booleans()),
    lambda inner: st.one_of(st.lists(inner, min_size=1, max_size=3), st.dictionaries(WORDS, inner, min_size=1)),
    max_leaves=12,
)


def leaves(form: Form, text: str) -> list[tuple[str, str, int]]:
    """Parse a text and return dotted path, value and line of every leaf."""
    return [(".".join(leaf.path), leaf.value, leaf.line) for leaf in parse(Source("f", form, text)).leaves]


def problem(form: Form, text: str) -> str:
    """Return why a text could not be read to its end."""
    return parse(Source("f", form, text)).problem


def flat(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Return the leaves of a plain value."""
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in flat(inner, (*path, key))]
    if isinstance(value, list):
        return [leaf for place, inner in enumerate(value) for leaf in flat(inner, (*path, str(place)))]
    return [(".".join(path), value if isinstance(value, str) else json.dumps(value))]


@given(TREES)
def test_json_and_yaml_parsers_find_what_was_written(tree: Any) -> None:
    """Every leaf of a document comes back with its path, from both parsers, at any indentation."""
    for form, text in (("json", json.dumps(tree)), ("json", json.dumps(tree, indent="\t")), ("yaml", json.dumps(tree))):
        assert [(path, value) for path, value, _ in leaves(form, text)] == flat(tree)  # type: ignore[arg-type]


@given(st.dictionaries(WORDS, st.dictionaries(WORDS, st.integers(0, 9), min_size=1)))
def test_toml_parser_finds_what_tomllib_finds(tables: dict[str, dict[str, int]]) -> None:
    """Tables of plain values come back as the standard library reads them, in both ways to write them."""
    long = "".join(f"[{t}]\n" + "".join(f"{k} = {v}\n" for k, v in table.items()) for t, table in tables.items())
    short = "".join(f"{t} = {{{', '.join(f'{k} = {v}' for k, v in table.items())}}}\n" for t, table in tables.items())
    for text in (long, short):
        assert [(path, value) for path, value, _ in leaves("toml", text)] == flat(tomllib.loads(text))


def test_lines_are_counted_from_one() -> None:
    """A leaf stands on the line of its value."""
    assert leaves("yaml", "a: 1\n\nb:\n- x\n- y\n") == [("a", "1", 1), ("b.0", "x", 4), ("b.1", "y", 5)]
    assert leaves("json", '{\n"a": 1, // "b": 2\n/* "c":\n3 */ "d": [4\n]}') == [("a", "1", 2), ("d.0", "4", 4)]


def test_yaml_aliases_and_merges_stand_under_their_own_names() -> None:
    """An alias repeats its anchor's leaves where it is used; a merge puts them beside its neighbours."""
    text = "d: &d {t: 1}\ns: &s 5\na: *d\nb:\n  <<: [*d]\n  u: *s\nc: &c [*c, *nobody]\n"
    found = leaves("yaml", text)
    assert ("a.t", "1", 3) in found
    assert ("b.t", "1", 5) in found
    assert ("b.u", "5", 6) in found


def test_a_merge_takes_nothing_away() -> None:
    """What a table says itself, or merged before, is not said again by what is merged into it; tables count whole."""
    text = "a: &a {t: 1, o: {u: 1}}\nb: &b {t: 2, p: 3}\nc:\n  <<: [*a, *b]\n  o: {v: 4}\n"
    assert sorted(leaf for leaf in leaves("yaml", text) if leaf[0].startswith("c.")) == [
        ("c.o.v", "4", 5),
        ("c.p", "3", 4),
        ("c.t", "1", 4),
    ]


def test_yaml_documents_and_odd_keys_are_walked_through() -> None:
    """Several documents, keys that are lists or aliases, and empty documents leave no path behind."""
    assert leaves("yaml", "a: &x 1\n---\n? [p, q]\n: 2\n*x : 3\n---\n---\nb: 4\n")[-1][:2] == ("b", "4")
    assert [path for path, _, _ in leaves("yaml", "? {k: v}\n: 2\nc: 3\n")] == ["?.k", "?", "c"]


def test_many_aliases_are_not_followed() -> None:
    """An alias bomb costs no more than its text."""
    layers = "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 50)}]\n" for n in range(1, 9))
    assert len(leaves("yaml", "a0: &a0 [x]\n" + layers)) < 1_000


@pytest.mark.parametrize(
    ("form", "text", "reason"),
    [
        ("yaml", "a: 1\nb: [\n", "not YAML"),
        ("yaml", "\x00", "not YAML"),
        ("yaml", 'a: "\\UFFFFFFFF"', "not YAML (OverflowError)"),
        ("yaml", "[" * 100_000, f"nested deeper than {DEPTH}"),
        ("json", "[" * 100_000, f"nested deeper than {DEPTH}"),
        ("json", "}", "not JSON"),
        ("json", '{"a": 1', "not JSON: it ends too soon"),
        ("yaml", "- 1\n" * (MAX_LEAVES + 1), f"more than {MAX_LEAVES} values"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_read_is_told(form: Form, text: str, reason: str) -> None:
    """A text of another form, a bomb and a heap of values end with a line and a reason."""
    assert reason in problem(form, text)
    assert problem(form, text).startswith("line ")


def test_empty_texts_are_whole() -> None:
    """No form finds fault with nothing."""
    forms: tuple[Form, ...] = ("yaml", "json", "toml", "env", "modelfile", "show", "unit", "plist", "script", "text")
    assert [parse(Source("f", form, "")).leaves for form in forms] == [()] * len(forms)
    assert not any(problem(form, "") for form in forms)


def test_toml_strings_are_no_settings() -> None:
    """Keys in long strings and comments are passed over; quoted values lose their quotes and comments."""
    text = "a = '''\nb = 1\n'''\n# c = 1\nd = \"x # y\" # z\ne.'f' = \"\"\"g\"\"\"\nnothing\n"
    assert leaves("toml", text) == [("a", "", 1), ("d", "x # y", 5), ("e.f", "", 6)]


def test_modelfile_texts_end_where_their_quotes_do() -> None:
    """A quoted text that is closed on its line hides nothing; one that is not hides everything up to its end."""
    text = 'SYSTEM "a"\nTEMPLATE """x\nPARAMETER seed 1\ny"""\nADAPTER a.gguf\nMESSAGE user "q"\nLICENSE free\n# x\n'
    assert leaves("modelfile", text + "parameter min_p 0.1\nPARAMETER\ttop_k\t 7") == [
        ("ADAPTER", "a.gguf", 5),
        ("PARAMETER.min_p", "0.1", 9),
        ("PARAMETER.top_k", "7", 10),
    ]


def test_shown_parameters_are_keys_and_values() -> None:
    """What Ollama shows is one parameter a line."""
    text = 'stop                           "<|x|>"\n\ntop_k                          20'
    assert leaves("show", text) == [("PARAMETER.stop", "<|x|>", 1), ("PARAMETER.top_k", "20", 3)]


def test_a_command_that_never_ends_is_still_read() -> None:
    """A file that ends within a continued line yields its flags, and the program stands for every line of it."""
    assert leaves("script", "llama-server \\\n --temp 0.1 \\") == [("llama-server.--temp", "0.1", 2)]


def test_a_command_may_be_a_list_of_its_words() -> None:
    """A flag in a list takes the word after it, and the program is whichever the list has named."""
    text = '{"command": ["llama-server", "-m", "--temp", "0.7", "--top-p=0.9"], "args": ["--temp"], "x": "0.1"}'
    assert [leaf for leaf in leaves("json", text) if "--" in leaf[0]] == [
        ("command.3.llama-server.--temp", "0.7", 1),
        ("command.4.llama-server.--top-p", "0.9", 1),
    ]


def test_a_script_tells_what_it_sends() -> None:
    """The body of a request is found, and a flag between backticks ends with them."""
    assert leaves("script", "curl -d '{\"temperature\": .2}' http://x\n") == [("temperature", ".2", 1)]
    assert leaves("text", "run `x --temp 0.4` then") == [(".--temp", "0.4", 1)]


def test_plist_values_follow_their_keys() -> None:
    """Only what follows a key or a flag is a value."""
    text = "<key>A</key><integer>1</integer><string>--seed</string>\n<string>7</string><string>8</string>"
    assert leaves("plist", text) == [("A", "1", 1), (".--seed", "7", 2)]


def test_long_lines_are_cut() -> None:
    """A line that no person wrote is looked at no further than 4,000 letters."""
    assert leaves("text", "x" * 5_000 + " temperature=1") == []


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("config.yaml", "yaml"), ("A.YML", "yaml"), (".env", "env"), (".env.local", "env"), ("prod.env", "env"),
        ("Modelfile", "modelfile"), ("Modelfile.coder", "modelfile"), ("cli-config.yaml.example", "yaml"),
        ("x.service", "unit"), ("auth.json", None), ("photo.png", None), ("README", None), ("run.jsonl", None),
    ],
)  # fmt: skip
def test_a_files_name_tells_its_form(name: str, form: Form | None) -> None:
    """Only what may hold settings is read, and what holds secrets alone never is."""
    assert form_of(f"some/folder/{name}") == form


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        ((), "1", None), (("topP",), "1", "top_p"), (("--top-k",), "1", "top_k"), (("t",), "1", None),
        (("sampling", "T"), "1", "temperature"), (("options", "seed"), "1", "seed"), (("seed",), "1", None),
        (("temp",), "/tmp", None), (("temp",), "0.1", "temperature"), (("LLAMA_ARG_TOP_P",), "1", "top_p"),
        (("OLLAMA_HOST",), "x", None), (("OLLAMA_TEMPERATURE",), "1", "temperature"), (("timeout",), "1", None),
        (("repetition_penalty",), "1", "repeat_penalty"), (("judge_temperature",), "1", "temperature"),
    ],
)  # fmt: skip
def test_spellings_have_one_word(path: tuple[str, ...], value: str, key: str | None) -> None:
    """Many ways to write a key, and words that mean sampling only among their like."""
    assert canonical(path, value) == key


def test_long_and_hostile_values_are_shown_short_and_clean() -> None:
    """No control character reaches a terminal, and no value fills it."""
    assert shown("\x1b[31mred" + "x" * 100, private=False) == "[31mred" + "x" * 52 + "…"
    assert shown("x", private=True) == "(not shown)"
    assert shown("https://u:hunter2@host/m?token=hunter2", private=False) == "host/m"
    assert shown("http://u:hunter2@host:1/m#hunter2", private=False) == "host:1/m"
    assert [shown(number, private=True) for number in (" 0.5 ", ".5", "5.", ".")] == ["0.5", ".5", "5.", "(not shown)"]


@pytest.mark.parametrize("text", ["", "x", "http://", "http://a:b/", "http://[::1", "file:///x"])
def test_what_is_no_address_is_none(text: str) -> None:
    """Addresses that cannot be asked are not taken for the engine's."""
    assert address(text) is None
