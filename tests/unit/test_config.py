"""The settings file: total, early, and helpful about a slip."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fleetssd.config import Section, Settings, load, parse
from fleetssd.errors import Misconfigured

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
MINIMAL: dict[str, Any] = {
    "data_dir": "/var/lib/fleetssd",
    "forge": {"url": "https://gitea.example", "token_file": "/etc/fleetssd/forge-token"},
    "fleet": {"agents": ["agent-*"], "repositories": ["fleet/*"]},
}


def with_(**tables: Any) -> dict[str, Any]:
    """Return the minimal settings with these tables merged in."""
    merged = dict(MINIMAL)
    for name, table in tables.items():
        merged[name] = {**MINIMAL.get(name, {}), **table} if isinstance(table, dict) else table
    return merged


def refusal(table: dict[str, Any]) -> str:
    """Return the sentence that these settings are refused with."""
    with pytest.raises(Misconfigured) as caught:
        parse(table)
    assert caught.value.exit_code == 78
    assert "config.example.toml" in caught.value.hint
    return caught.value.message


def keys(model: type[Section]) -> set[str]:
    """Return every key of a settings table and of the tables in it."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        inner = field.annotation
        nested = isinstance(inner, type) and issubclass(inner, Section)
        found |= keys(inner) if nested else {name}
    return found


def test_example_equals_the_defaults() -> None:
    """The example file says nothing but the defaults."""
    assert load(EXAMPLE) == parse(MINIMAL)


def test_example_names_every_key() -> None:
    """Each key of the settings stands in the example, if only as a comment, with a comment above it."""
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    named = {}
    for number, line in enumerate(lines):
        if match := re.match(r"(?:# )?([a-z_]+) = ", line):
            named[match[1]] = lines[number - 1]
    assert set(named) == keys(Settings)
    assert [key for key, above in named.items() if not above.startswith("# ")] == []


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (with_(forge={"pol_seconds": 3}), "forge.pol_seconds: unknown key, did you mean 'poll_seconds'?"),
        (with_(forgee={}), "forgee: unknown key, did you mean 'forge'?"),
        (with_(web={"prot": 1}), "web.prot: unknown key, did you mean 'port'?"),
        (
            with_(evaluation={"repositories": [{"match": "fleet/*", "chek": "make"}]}),
            "evaluation.repositories.0.chek: unknown key, did you mean 'check'?",
        ),
    ],
)
def test_typo_names_the_nearest_key(table: dict[str, Any], sentence: str) -> None:
    """An unknown key is refused together with the key that was probably meant."""
    assert sentence in refusal(table)


def test_unknown_key_without_a_neighbour_is_named_alone() -> None:
    """Where nothing is near, nothing is guessed."""
    assert refusal(with_(xyzzy=1)) == "settings: xyzzy: unknown key"


def test_every_slip_is_named_at_once() -> None:
    """Two slips are two sentences, so that one look mends both."""
    message = refusal(with_(recipe={"epoch": 2}, gate={"alpha": 2.0}))
    assert "recipe.epoch" in message
    assert "gate.alpha" in message


@pytest.mark.parametrize("missing", ["data_dir", "forge", "fleet"])
def test_required_table_is_named(missing: str) -> None:
    """A setting without a default that is not given is named."""
    assert missing in refusal({key: value for key, value in MINIMAL.items() if key != missing})


@pytest.mark.parametrize("table", ["forge", "engine"])
@pytest.mark.parametrize(
    "url", ["gitea.example", "ftp://gitea.example", "http://", "https://name:token@host", "http://h/?token=1"]
)
def test_address_that_is_no_plain_http_is_refused(table: str, url: str) -> None:
    """An address without a scheme or host, or with a secret in it, is refused, and the secret is not repeated."""
    message = refusal(with_(**{table: {"url": url}}))
    assert f"{table}.url" in message
    assert "token@" not in message


def test_trailing_slash_of_an_address_goes() -> None:
    """One server has one address."""
    assert parse(with_(forge={"url": "https://gitea.example/git/"})).forge.url == "https://gitea.example/git"


@pytest.mark.parametrize("hour", ["2", "24:00", "02:60", "2am", ":", "02:0x"])
def test_hour_that_is_none_is_refused(hour: str) -> None:
    """An hour is HH:MM."""
    assert "schedule.dawn" in refusal(with_(schedule={"dawn": hour}))


def test_unknown_timezone_is_refused_early() -> None:
    """A time zone that does not exist is found when the file is read, not at two in the morning."""
    assert "schedule.timezone" in refusal(with_(schedule={"timezone": "Mars/Olympus"}))


def test_known_timezone_is_taken() -> None:
    """A zone of the database is taken as it is."""
    assert parse(with_(schedule={"timezone": "Europe/Berlin"})).schedule.timezone == "Europe/Berlin"


def test_empty_fleet_is_refused() -> None:
    """Nobody to learn from is a slip, not a wish."""
    assert "fleet.agents" in refusal(with_(fleet={"agents": []}))


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A settings file that is not there is named."""
    with pytest.raises(Misconfigured, match=r"no settings file at .*absent\.toml"):
        load(tmp_path / "absent.toml")


@pytest.mark.parametrize("content", [b"data_dir = ", b"\xff\xfe"])
def test_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    """A file that is not TOML is named together with where it breaks."""
    path = tmp_path / "settings.toml"
    path.write_bytes(content)
    with pytest.raises(Misconfigured, match=r"settings\.toml is not TOML"):
        load(path)


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """A folder of settings can be moved as a whole."""
    path = tmp_path / "settings.toml"
    path.write_text(
        'data_dir = "data"\n[forge]\nurl = "http://f:3000"\ntoken_file = "token"\n'
        '[fleet]\nagents = ["a"]\nrepositories = ["o/r"]\n',
        encoding="utf-8",
    )
    settings = load(path)
    assert (settings.data_dir, settings.forge.token_file) == (tmp_path / "data", tmp_path / "token")
    assert settings.database == f"sqlite:///{tmp_path / 'data' / 'fleetssd.sqlite3'}"


def test_database_url_is_taken_as_it_is() -> None:
    """An operator's database wins over the file in data_dir."""
    assert parse(with_(database_url="postgresql://db/fleet")).database == "postgresql://db/fleet"


def test_no_sandbox_is_taken_only_where_it_is_said_twice() -> None:
    """Kind none needs its flag, and then has nothing to prepare in."""
    bare = {**MINIMAL, "evaluation": {"sandbox": "none"}}
    with pytest.raises(Misconfigured, match="allow_no_sandbox = true"):
        parse(bare)
    allowed = {"sandbox": "none", "allow_no_sandbox": True}
    assert parse({**MINIMAL, "evaluation": allowed}).evaluation.sandbox == "none"
    with pytest.raises(Misconfigured, match="prepare must be empty"):
        parse({**MINIMAL, "evaluation": {**allowed, "repositories": [{"match": "*", "prepare": "make"}]}})


SHELF = {"kind": "llama-server", "adapters_dir": "adapters"}


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"engine": {"kind": "vllm"}}, "needs adapters_dir"),
        ({"engine": {**SHELF, "road": "merged-create"}}, "takes adapters alone"),
        ({"engine": SHELF, "decode": {"manage": "bake"}}, "needs a base of its own"),
        ({"engine": SHELF, "recipe": {"sampler": "ollama", "parity": "none"}}, "needs sampler_url"),
        ({"engine": SHELF, "guards": {"lm_eval_tasks": ["mbpp"]}}, "ask models by name"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_early(tables: dict[str, Any], says: str) -> None:
    """An engine that takes adapters from a folder is not asked for more than that."""
    assert says in refusal(with_(**tables))


@pytest.mark.parametrize("kind", ["llama-server", "vllm"])
def test_an_engine_with_its_folder_is_taken(kind: str) -> None:
    """A folder is all that the other two kinds need; Ollama needs none."""
    told = parse(with_(engine={"kind": kind, "adapters_dir": "adapters", "reload_command": ["true"]})).engine
    assert (told.kind, told.adapters_dir, told.reload_command) == (kind, Path("adapters"), ("true",))
    assert parse(with_()).engine.adapters_dir is None


def test_settings_are_frozen() -> None:
    """Nobody changes a setting in flight."""
    with pytest.raises(ValueError, match="frozen"):
        parse(MINIMAL).web.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ({"sampler": "ollama"}, 'parity = "none"'),
        ({"sampler": "vllm"}, "sampler_url"),
        ({"sampler_url": "localhost:8000"}, "http"),
    ],
)
def test_a_sampler_that_cannot_do_what_is_asked_is_refused(recipe: dict[str, str], says: str) -> None:
    """What tempers last is no parity with the paper; a server needs its address; the message says what to set."""
    with pytest.raises(Misconfigured, match=says):
        parse(MINIMAL | {"recipe": recipe})


def test_a_sampler_that_tempers_last_is_taken_where_parity_is_waived() -> None:
    """Who says that parity does not matter may sample from the engine."""
    assert parse(MINIMAL | {"recipe": {"sampler": "ollama", "parity": "none"}}).recipe.sampler == "ollama"


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"decode": {"clamp": True}}, 'manage = "gateway" or "bake"'),
        ({"telemetry": {"queue": 10, "batch": 11}}, "raise queue or lower batch"),
        ({"evaluation": {"samples": 4, "k": 8}}, "raise samples or lower k"),
        ({"evaluation": {"check": "make 'test"}}, "a shell could not read this command"),
        ({"evaluation": {"repositories": [{"match": "*", "prepare": "make 'deps"}]}}, "a shell could not read"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tables: dict[str, Any], says: str) -> None:
    """Each key may be fine alone; what they cannot be together is said at once, with what to change."""
    assert says in refusal(MINIMAL | tables)


@pytest.mark.parametrize(("device", "fits"), [("cuda:1", True), ("xpu", True), ("cpu:1", False), ("gpu", False)])
def test_devices_are_written_one_way(device: str, fits: bool) -> None:
    """An accelerator may carry its number."""
    table = with_(recipe={"device": device})
    assert parse(table).recipe.device == device if fits else "recipe.device" in refusal(table)
