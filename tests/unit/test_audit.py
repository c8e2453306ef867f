"""Which sampling settings take effect, over a sample of a fleet's files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.audit import Audit, Finding, Skipped, Source, World, callers, examine, form_of
from fleetssd.audit.findings import headline

SAMPLES = Path(__file__).parents[1] / "samples" / "audit"
GATEWAY = World(manage="gateway", temperature=0.4, top_p=0.9, gateway=11435)


def sources() -> list[Source]:
    """Return the sample fleet's files."""
    found = []
    for path in sorted(SAMPLES.rglob("*")):
        form = form_of(path.name) if path.is_file() else None
        if form is not None:
            found.append(Source(str(path.relative_to(SAMPLES)), form, path.read_text()))
    return found


@pytest.fixture(scope="module")
def audit() -> Audit:
    """Audit the sample fleet once."""
    return examine(sources(), World())


def yaml(text: str, world: World = World(), name: str = "config.yaml") -> list[Finding]:  # noqa: B008  frozen
    """Audit one YAML file."""
    return list(examine([Source(name, "yaml", text)], world).findings)


def effect(audit: Audit, file: str, line: int, key: str = "temperature") -> list[tuple[str, str, str]]:
    """Return layer, effect and value of the findings at a place."""
    return [(f.layer, f.effective, f.value) for f in audit.findings if (f.file, f.line, f.key) == (file, line, key)]


@pytest.mark.parametrize(
    ("file", "line", "key", "wanted"),
    [
        ("hermes/config.yaml", 5, "temperature", ("serve", "yes", "1.0")),
        ("hermes/config.yaml", 5, "top_p", ("serve", "yes", "1.0")),
        ("hermes/config.yaml", 6, "temperature", ("serve", "inert", "0.3")),
        ("hermes/config.yaml", 9, "adaptive_sampling", ("serve", "inert", "true")),
        ("hermes/config.yaml", 14, "temperature", ("serve", "yes", "0.6")),
        ("hermes/config.yaml", 18, "temperature", ("side-call", "yes", "0.1")),
        ("hermes/config.yaml", 22, "temperature", ("side-call", "yes", "0.9")),
        ("hermes/profiles/night/config.yaml", 2, "temperature", ("serve", "unknown", "0.7")),
        ("hermes/profiles/night/config.yaml", 7, "top_p", ("serve", "yes", "1.0")),
        ("hermes/profiles/night/config.yaml", 9, "temperature", ("serve", "yes", "0.7")),
        ("hermes/profiles/night/config.yaml", 9, "top_k", ("serve", "inert", "20")),
        ("hermes/profiles/night/config.yaml", 11, "min_p", ("serve", "inert", "0.05")),
        ("hermes/.env", 3, "temperature", ("serve", "unknown", "0.2")),
        ("hermes/.env", 4, "temperature", ("serve", "yes", "0.5")),
        ("hermes/.env", 5, "temperature", ("serve", "inert", "(not shown)")),
        ("hermes/.env", 6, "num_ctx", ("serve", "yes", "8192")),
        ("hermes/skills/mlops/tuning/SKILL.md", 5, "top_p", ("mention", "unknown", "0.9")),
        ("serving/Modelfile", 1, "FROM", ("serve", "yes", "./fleet-base.gguf")),
        ("serving/Modelfile", 2, "temperature", ("serve", "masked", "0.4")),
        ("serving/Modelfile", 3, "top_p", ("serve", "masked", "0.9")),
        ("serving/Modelfile", 4, "top_k", ("serve", "yes", "20")),
        ("serving/llama.service", 4, "top_k", ("serve", "yes", "30")),
        ("serving/llama.service", 7, "temperature", ("serve", "yes", "0.5")),
        ("serving/mlx.plist", 3, "temperature", ("serve", "yes", "0.6")),
        ("serving/mlx.plist", 5, "min_p", ("serve", "yes", "0.1")),
        ("serving/start.sh", 3, "min_p", ("serve", "yes", "0.05")),
        ("serving/start.sh", 4, "temperature", ("serve", "unknown", "0.8")),
        ("serving/generation_config.json", 3, "temperature", ("serve", "inert", "0.7")),
        ("serving/generation_config.json", 4, "top_k", ("serve", "inert", "20")),
        ("serving/opencode.json", 1, "temperature", ("serve", "yes", "0.25")),
        ("serving/fleetssd.toml", 6, "temperature", ("train", "yes", "1.5")),
        ("serving/fleetssd.toml", 8, "temperature", ("eval", "yes", "0.7")),
        ("serving/fleetssd.toml", 10, "temperature", ("eval", "unknown", "1")),
        ("serving/compose.yaml", 3, "temperature", ("serve", "yes", "0.55")),
        ("serving/compose.yaml", 5, "top_p", ("serve", "yes", "0.91")),
        ("serving/datagen/compress.yaml", 2, "temperature", ("train", "yes", "0.3")),
        ("serving/config.yaml.example", 2, "temperature", ("mention", "inert", "0.11")),
        ("serving/ask.py", 1, "temperature", ("mention", "unknown", "0.15")),
    ],
)
def test_a_setting_has_the_effect_that_its_reader_gives_it(
    audit: Audit, file: str, line: int, key: str, wanted: tuple[str, str, str]
) -> None:
    """Every kind of place is found at its line, with its layer, its effect and its value."""
    assert wanted in effect(audit, file, line, key)


def test_nothing_is_found_in_comments_and_quoted_texts(audit: Audit) -> None:
    """A commented flag, a PARAMETER within SYSTEM or MESSAGE and a folder named TEMP are no settings."""
    assert {f.value for f in audit.findings}.isdisjoint({"2", "3", "5", "9", "/var/tmp"})
    assert audit.skipped == ()


def test_no_secret_is_told(audit: Audit) -> None:
    """An address loses its password and query, an environment every value that is no number."""
    assert "hunter2" not in str(audit.to_json())


def test_callers_are_those_whose_requests_carry_a_temperature(audit: Audit) -> None:
    """Hermes' extra_body, its side calls and other tools, but no server default, and nobody who asks elsewhere."""
    assert [(f.file, f.line) for f in callers(audit.findings)] == [
        ("hermes/config.yaml", 18), ("hermes/config.yaml", 22), ("hermes/config.yaml", 23),
        ("hermes/profiles/night/config.yaml", 9), ("serving/opencode.json", 1),
    ]  # fmt: skip
    assert audit.to_json()["callers"] == [f"{f.file}:{f.line}" for f in callers(audit.findings)]


@pytest.mark.parametrize(("value", "is_one"), [("1", False), ("1.0", False), ("0.9", True), ("${T}", True)])
def test_a_caller_that_says_one_is_none(value: str, is_one: bool) -> None:
    """T = 1 is what a baked checkpoint expects."""
    found = yaml(f"providers:\n  ollama:\n    extra_body:\n      temperature: '{value}'\n")
    assert bool(callers(found)) is is_one


def test_what_takes_effect_stands_first(audit: Audit) -> None:
    """Findings are ordered by effect."""
    words = [f.effective for f in audit.findings]
    assert words == sorted(words, key=["yes", "masked", "inert", "unknown"].index)


def test_what_is_said_twice_counts_once() -> None:
    """Of a key that a file repeats the last counts, and the others are no callers; stop words pile up."""
    body = "providers:\n  ollama:\n    extra_body:\n      temperature: 0.2\n      temperature: 0.3\n"
    first, last = sorted(yaml(body), key=lambda f: f.line)
    assert (first.effective, first.by) == ("masked", "line 5 of this file, which says it again")
    assert callers([first, last]) == [last]
    lines = "PARAMETER top_k 1\nPARAMETER top_k 2\nPARAMETER stop a\nPARAMETER stop b\n"
    found = examine([Source("Modelfile", "modelfile", lines)], World()).findings
    assert sorted((f.line, f.effective) for f in found) == [(1, "masked"), (2, "yes"), (3, "yes"), (4, "yes")]


def test_a_units_drop_ins_come_after_it() -> None:
    """What a drop-in says again is masked in the unit beside it, and in no other folder's unit."""
    said = "[Service]\nEnvironment=LLAMA_ARG_TEMP={}\nExecStart=llama-server --top-k {}\n"
    names = ("a/x.service", "a/x.service.d/override.conf", "b/x.service")
    texts = [Source(name, "unit", said.format(f"0.{place}", place)) for place, name in enumerate(names)]
    found = {(f.file, f.key): f for f in examine(texts, World()).findings}
    assert {f.effective for (file, _), f in found.items() if file != names[0]} == {"yes"}
    by = [found[names[0], key].by for key in ("temperature", "top_k")]
    assert by == [f"{names[1]}:{line}, which says it again and comes later" for line in (2, 3)]


def test_a_context_for_ollama_is_dropped_by_v1() -> None:
    """Hermes sends model.ollama_num_ctx, unlike its neighbours; it is Ollama's /v1 that has no field for it."""
    (found,) = yaml("model:\n  ollama_num_ctx: 8192\nagent: {}\n")
    assert (found.key, found.effective) == ("num_ctx", "inert")
    assert "/v1 drops" in found.by


def test_the_headline_names_each_temperature_that_serves_and_where(audit: Audit) -> None:
    """The sentence tells what takes effect with a place, and how many settings do nothing."""
    said = headline(audit.findings)
    assert "T = 1.0 (hermes/config.yaml:5)" in said
    assert "4 other temperatures for serving have no effect" in said
    assert "0.4" not in said
    assert headline(()) == "No temperature was found that takes effect when the fleet is served."
    one = examine([Source("Modelfile", "modelfile", "PARAMETER temperature 0.2")], World()).findings
    assert headline(one).endswith("1 other temperature for serving has no effect.")


HERMES = """\
model: {{base_url: {url}, provider: {provider}}}
providers:
  mine:
    extra_body: {{temperature: 0.5, top_k: 9}}
"""


def test_a_provider_that_the_model_names_is_sent_to_the_models_address() -> None:
    """The extra_body of a provider without an address goes where model.base_url points."""
    here = yaml(HERMES.format(url="http://mac:11434/v1", provider="custom:mine"))
    assert [(f.key, f.effective, f.caller) for f in here if f.line == 4] == [
        ("temperature", "yes", True), ("top_k", "inert", False),
    ]  # fmt: skip
    assert [(f.key, f.value) for f in here if f.line == 1] == [("top_p", "1.0")]


def test_a_provider_that_nothing_names_may_be_sent_anywhere() -> None:
    """Without an address only temperature and its like are sure to be sent on."""
    found = yaml(HERMES.format(url="ftp://x", provider="other"))
    assert [(f.key, f.effective) for f in found] == [("temperature", "yes"), ("top_k", "unknown")]
    assert [f.line for f in found] == [4, 4]


def test_an_address_that_is_none_is_nobodys() -> None:
    """A port out of range or a name without a scheme fills in nothing."""
    assert yaml("model: {base_url: 'http://x:99999/v1'}\nagent: {}\n") == []


def test_the_gateway_fills_in_its_own_decode() -> None:
    """Where fleetssd's gateway stands before the engine, what it sends is served, and it masks the Modelfile."""
    found = yaml("model:\n  base_url: http://127.0.0.1:11435/v1\n", GATEWAY)
    assert [(f.key, f.value) for f in found] == [("temperature", "0.4"), ("top_p", "0.9")]
    assert all("gateway" in f.by for f in found)
    (masked,) = examine([Source("m", "show", "temperature      0.7")], GATEWAY).findings
    assert (masked.effective, masked.by) == (
        "masked", "fleetssd's gateway, which sends 0.4 where the caller sends none",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("port", "wanted"),
    [
        (11435, [("temperature", "masked", "fleetssd's gateway, which clamps it to 0.4", False)]),
        (11434, [("temperature", "yes", "Hermes sends it with every request, and a request outranks all else", True)]),
    ],
)
def test_a_gateway_that_clamps_masks_what_callers_say_to_it(
    port: int, wanted: list[tuple[str, str, str, bool]]
) -> None:
    """A caller's own temperature is masked where it asks a gateway that clamps, and not where it goes past it."""
    held = World(manage="gateway", temperature=0.4, gateway=11435, clamp=True)
    found = yaml(HERMES.format(url=f"http://mac:{port}/v1", provider="custom:mine"), held)
    assert [(f.key, f.effective, f.by, f.caller) for f in found if f.line == 4][:1] == wanted


@pytest.mark.parametrize("engine", ["llama-server", "vllm"])
def test_other_engines_obey_what_is_sent_and_read_no_modelfile(engine: str) -> None:
    """They take every sampling field of a request; nothing is said of what they fill in themselves."""
    world = World(engine=engine, ports=(8080,))
    text = HERMES.format(url="http://mac:8080/v1", provider="custom:mine").replace(
        "top_k: 9", "top_k: 9, options: {seed: 1}"
    )
    found = yaml(text, world)
    assert [(f.key, f.effective) for f in found] == [("temperature", "yes"), ("top_k", "yes"), ("seed", "inert")]
    assert all(engine in f.by for f in found if f.effective == "yes")
    (parameter,) = examine([Source("m", "show", "temperature      0.7")], world).findings
    assert (parameter.effective, engine in parameter.by) == ("inert", True)
    (weights,) = examine([Source("generation_config.json", "json", '{"top_k": 20}')], world).findings
    assert weights.effective == ("yes" if engine == "vllm" else "inert")


def test_fleetssds_own_decode_serves_only_through_the_gateway() -> None:
    """The same key judges candidates, or is what callers get."""
    text = "data_dir = 1\n[forge]\n[fleet]\na = 1\nb = 2\n[decode]\ntop_k = 5\n"
    text = text.replace("[forge]\n", "[forge]\nurl = 1\n")
    assert [f.layer for f in examine([Source("c.toml", "toml", text)], World()).findings] == ["eval"]
    assert [f.layer for f in examine([Source("c.toml", "toml", text)], GATEWAY).findings] == ["serve"]


def test_other_parts_of_hermes_configuration_are_unknown() -> None:
    """A section that nobody is known to read sampling from is called unknown, by its name."""
    (found,) = yaml("model: x\nagent: {}\ndelegation:\n  temperature: 0.1\n")
    assert (found.effective, found.by) == ("unknown", "no known reader of delegation.* in Hermes' configuration")


@pytest.mark.parametrize(
    ("name", "text", "by"),
    [
        ("app.yaml", "temperature: 0.1\n", "no known reader of app.yaml"),
        ("app.yaml", "- x\n- --temp 0.3\n", "no known reader of --temp"),
        ("app.yaml", "model: {temperature: 1}\n", "no known reader of app.yaml"),
        ("config.yaml", "model: {temperature: 1}\n", "nobody: Hermes sends only"),
        ("optional-skills/a/x.yaml", "temperature: 0.1\n", "takes effect only where the skill's code is run"),
        (".continue/config.yaml", "temperature: 0.1\n", "the tool that reads config.yaml sends it"),
    ],
)
def test_a_file_is_known_by_its_name_and_its_content(name: str, text: str, by: str) -> None:
    """The same key has another reader in another file."""
    (found,) = yaml(text, name=name)
    assert found.by.startswith(by)


def test_a_scalar_document_has_no_settings() -> None:
    """A file that is one word says nothing."""
    assert yaml("temperature") == []


def test_a_broken_file_tells_where_it_broke_and_keeps_what_was_read() -> None:
    """The settings before the break stand; the break is told beside what the folder's reader skipped."""
    audit = examine([Source("a.yaml", "yaml", "temperature: 0.2\nb: [")], World(), [Skipped("x", "binary")])
    assert [f.value for f in audit.findings] == ["0.2"]
    assert [(each.file, each.reason.split(":")[0]) for each in audit.skipped] == [("x", "binary"), ("a.yaml", "line 2")]


@given(
    st.sampled_from(["yaml", "json", "toml", "env", "modelfile", "show", "unit", "plist", "script", "text"]),
    st.lists(
        st.one_of(
            st.text(max_size=20),
            st.sampled_from([
                "temperature", "model", "providers", ": ", "0.7", "extra_body", "base_url", "http://a:11434/v1", "\n",
                "  ", "- ", "{", "}", "[", "]", '"', "'", '"""', "=", "&a", "*a", "<<", "PARAMETER", "--temp", "<key>",
                "<string>", "</", "\\U0FFFFFFF", "%YAML 1.9", "? ", "|", ">", "---", "\x00", "//", "/*", "\\",
            ]),
        )
    ),
)  # fmt: skip
def test_no_text_breaks_the_audit(form: str, parts: list[str]) -> None:
    """Whatever stands in a file, an audit of it ends with findings that have a line of the file."""
    text = "".join(parts)
    audit = examine([Source("config.yaml", form, text)], World())  # type: ignore[arg-type]  one of the forms
    assert all(1 <= f.line <= text.count("\n") + 1 for f in audit.findings)


def test_an_audit_knows_whether_agents_ask_the_gateway() -> None:
    """It is Hermes' address that tells, and only where the gateway's port is known."""
    text = "model:\n  base_url: http://127.0.0.1:11435/v1\n"
    through = [
        examine([Source(name, "yaml", text)], world).through_gateway
        for name, world in (("config.yaml", GATEWAY), ("config.yaml", World()), ("other.yaml", GATEWAY))
    ]
    assert through == [True, False, False]


def test_a_configuration_with_many_endpoints_is_read_in_one_pass() -> None:
    """Thousands of providers cost no more than their text; the headline names the first temperatures and counts on."""
    each = "  p{n}: {{base_url: 'http://a:11434/{n}', extra_body: {{temperature: 0.{n:04}, top_p: 1}}}}\n"
    found = yaml("providers:\n" + "".join(each.format(n=n) for n in range(2_000)))
    assert len(callers(found)) == 2_000
    assert headline(found).endswith("T = 0.0005 (config.yaml:7) and 1994 more.")
