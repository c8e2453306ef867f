"""Names, layers and manifests, against the bytes that a real server wrote."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.artefact import (
    Blob,
    carried,
    choose_road,
    elsewhere,
    manifest,
    model_name,
    own_size,
    room_needed,
    same_name,
    split_tag,
)
from fleetssd.errors import Corrupt, Misconfigured
from fleetssd.shown import config_bytes, go_json, own_layers, read_parameters, read_show

BASE = "3f915193b129a3919d56af8bb71b8daa259796d3abed8b4886b95e67dc7c38f7"
CHARS = st.text('ab<>&_\u2028é"\\\n', max_size=8)
ADAPTER = "f26d87bea2d7dbab07967c2033e30ae45db5fef0219ef0df38f36bb3039f9111"
TEMPLATE = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
PARAMETERS = f"{'num_ctx':<30} 512\n" + "\n".join(f'{"stop":<30} "<|im_{end}|>"' for end in ("start", "end"))
SHOW = {
    "modelfile": f'# FROM fleet-base:q\n\nFROM /models/blobs/sha256-{BASE}\nTEMPLATE "{TEMPLATE}"\n',
    "parameters": PARAMETERS,
    "template": TEMPLATE,
    "details": {
        "parent_model": "",
        "format": "gguf",
        "family": "qwen3",
        "families": ["qwen3"],
        "parameter_size": "107K",
        "quantization_level": "unknown",
    },
}


@dataclass(frozen=True)
class Found:
    """A probe's outcome, as far as the road depends on it."""

    pulls_from_loopback: bool
    creates_adapters: bool
    loads_adapters: bool


def test_manifest_is_byte_for_byte_what_a_real_server_took() -> None:
    """Base, template, parameters and config derived from `show` alone give the recorded manifest's sha256."""
    written = manifest(read_show(SHOW), Blob(BASE, 440512), Blob(ADAPTER, 4576))
    assert written.digest == "41e361a68bae09d4c5829a8669e246160e4f473760d6b2b63c25ee142f794cda"


def test_small_blobs_are_those_of_the_recording() -> None:
    """Config, template and parameters have the sizes and digests that the real server stored."""
    written = manifest(read_show(SHOW), Blob(BASE, 440512), None)
    found = [(len(blob), hashlib.sha256(blob).hexdigest()[:12]) for blob in written.blobs]
    assert found == [(152, "4cf812c89285"), (102, "e3b2721cec51"), (73, "947fef9ab1b5")]


def test_own_size_is_the_total_less_the_small_layers() -> None:
    """The recorded total of the base is its GGUF, 440512 bytes, and 327 bytes of small layers."""
    assert own_size(read_show(SHOW), 440839) == 440512


def test_without_adapter_the_manifest_has_no_adapter_layer() -> None:
    """A manifest of the base alone, or of a merged file, names no adapter."""
    table = json.loads(manifest(read_show(SHOW), Blob("ab" * 32, 1), None).body)
    kinds = [layer["mediaType"].rpartition(".")[2] for layer in table["layers"]]
    assert kinds == ["model", "template", "params"]


def test_a_base_with_an_adapter_is_refused() -> None:
    """Two adapters would be added by the engine, so the base must be pristine."""
    base = replace(read_show(SHOW), adapters=(ADAPTER,))
    with pytest.raises(Corrupt, match="already"):
        manifest(base, Blob(BASE, 1), Blob(ADAPTER, 1))


def test_jinja_and_the_default_template_are_not_carried() -> None:
    """A template from the GGUF, or none at all, is no layer of its own."""
    for text in ("{% for m in messages %}{{ m }}{% endfor %}", "{{ .Prompt }}", ""):
        assert read_show(SHOW | {"template": text}).template == ""


def test_system_licence_renderer_and_parser_are_carried() -> None:
    """What the base says beside its weights is kept, in the server's order of layers."""
    said = [{"role": "user", "content": "<hi>"}, {"role": "assistant", "content": "ho"}]
    traits = {"system": "You are careful.", "license": "MIT", "renderer": "r1", "parser": "p1", "messages": said}
    shown = read_show(SHOW | traits)
    layers = {kind.rpartition(".")[2]: text for kind, text in own_layers(shown)}
    config = json.loads(config_bytes(shown))
    assert list(layers) == ["license", "template", "system", "params", "messages"]
    assert (config["renderer"], config["parser"], json.loads(layers["messages"])) == ("r1", "p1", said)


def test_licences_may_be_a_list() -> None:
    """Servers show one licence text or several."""
    assert read_show(SHOW | {"license": ["A", "B"]}).licenses == ("A", "B")


def test_adapter_lines_inside_free_text_are_not_adapters() -> None:
    """Only the Modelfile's head names files: a template may hold any line."""
    text = f"FROM /b/sha256-{BASE}\nADAPTER /b/sha256-{ADAPTER}\nTEMPLATE x\nADAPTER /b/sha256-{'0' * 64}\n"
    assert read_show(SHOW | {"modelfile": text}).adapters == (ADAPTER,)


def test_a_model_without_a_gguf_is_corrupt() -> None:
    """A model that is not one GGUF cannot be fine-tuned here."""
    with pytest.raises(Corrupt, match="0 model files"):
        read_show({"modelfile": "FROM somewhere"})


def test_parameters_keep_their_types() -> None:
    """Numbers, booleans, strings and lists come back as they were set; `stop` is always a list."""
    text = 'top_p 0.95\nnum_ctx 8192\nuse_mmap true\nstop "<|im_end|>"\nname "a \\"b\\""\n\nodd \\x"\nmin_p 1e-06'
    assert dict(read_parameters(text)) == {
        "top_p": 0.95,
        "num_ctx": 8192,
        "use_mmap": True,
        "stop": ["<|im_end|>"],
        "name": 'a "b"',
        "odd": "\\x",
        "min_p": 1e-06,
    }


@given(st.dictionaries(CHARS, CHARS | st.integers() | st.booleans()))
def test_go_json_is_json_without_html(table: dict[str, object]) -> None:
    """The bytes read back as the value, end with a newline, and hold no character that HTML knows."""
    text = go_json(table)
    assert json.loads(text) == table
    assert text.endswith(b"\n")
    assert not set(b"<>&") & set(text)


@given(st.text("0123456789abcdef", min_size=64, max_size=64), st.dates())
def test_names_carry_alias_date_and_digest(digest: str, day: date) -> None:
    """The name is legal for Ollama, says whose it is, and starts the artefact's digest."""
    base, tag = split_tag(model_name("team/fleet-coder:latest", digest, day))
    assert (base, tag) == ("team/fleet-coder", f"v{day:%Y%m%d}-{digest[:12]}")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("fleet:latest", "FLEET", True),
        ("fleet:v1", "fleet:v2", False),
        ("127.0.0.1:15005/fleet/coder:v3", "127.0.0.1:15005/fleet/coder:V3", True),
        ("127.0.0.1:15005/fleet/coder", "127.0.0.1:15005/fleet/coder:latest", True),
    ],
)
def test_names_are_compared_as_the_server_does(one: str, other: str, same: bool) -> None:
    """Case does not matter, no tag means latest, a port is no tag."""
    assert same_name(one, other) is same


@pytest.mark.parametrize(
    ("setting", "pulls", "creates", "loads", "road"),
    [
        ("auto", True, True, True, "adapter-registry"),
        ("auto", False, True, True, "adapter-create"),
        ("auto", True, True, False, "merged-registry"),
        ("auto", False, True, False, "merged-create"),
        ("auto", False, False, True, "merged-create"),
        ("adapter-registry", True, False, True, "adapter-registry"),
        ("adapter-create", True, True, True, "adapter-create"),
        ("merged-registry", True, False, True, "merged-registry"),
        ("merged-create", True, True, True, "merged-create"),
        ("merged-create", False, False, False, "merged-create"),
    ],
)
def test_road_follows_setting_and_probe(setting: str, pulls: bool, creates: bool, loads: bool, road: str) -> None:
    """Auto takes the best road that was seen open, adapters only where one answered; a stated road is obeyed."""
    assert choose_road(setting, Found(pulls, creates, loads)) == road


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("adapter-registry", Found(False, True, True)),
        ("adapter-registry", Found(True, True, False)),
        ("adapter-create", Found(True, False, True)),
        ("merged-registry", Found(False, True, True)),
    ],
)
def test_a_closed_road_is_a_setting_to_mend(setting: str, found: Found) -> None:
    """Insisting on a road that the engine does not have is Misconfigured, with a hint."""
    with pytest.raises(Misconfigured) as caught:
        choose_road(setting, found)
    assert "auto" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "out"),
    [("m:cloud", True), ("m:480b-Cloud", True), ("m", False), ("m:cloudy", False), ("cloud/m:7b", False)],
)
def test_a_cloud_tag_leaves_the_house(name: str, out: bool) -> None:
    """Only the tag sends requests elsewhere, in any letter case."""
    assert elsewhere(name) == out


def test_a_create_is_told_of_the_base_what_it_has() -> None:
    """What the base says beside its weights is passed on; what it does not have is not named."""
    told = carried(read_show(SHOW | {"system": "You are careful.", "license": "MIT"}))
    assert told["system"] == "You are careful."
    assert told["license"] == ["MIT"]
    assert told["template"] == TEMPLATE
    assert {"renderer", "parser"}.isdisjoint(told)


def test_a_merged_create_takes_room_twice() -> None:
    """The server may write a merged file once more; every other road takes the file's own size."""
    assert room_needed("merged-create", 1000, 1000) == 2200
    assert room_needed("merged-create", 0, 1000) == 1200
    assert room_needed("merged-registry", 1000, 1000) == room_needed("adapter-create", 1000, 1000) == 1000
