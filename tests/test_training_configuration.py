"""Configuration: strict reading, presets, the command line, what may change."""

import dataclasses
import enum
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddspx.training.configuration import (
    MAY_CHANGE,
    ConfigurationError,
    FitConfig,
    from_dict,
    load_preset,
    parse_command_line,
    read_yaml,
    to_dict,
    to_yaml,
)
from ddspx.training.optimizer import OptimizerConfig
from ddspx.training.provenance import changeable, flat, git_revision, refuse_changes


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Model:
    """A model.

    Attributes:
        width: channels.
        dilations: one a layer.
        kind: which.
    """

    width: int = 16
    dilations: tuple[int, ...] = (1, 2, 4)
    kind: Literal["tcn", "rnn"] = "tcn"


@dataclass(frozen=True)
class Experiment:
    """An experiment.

    Attributes:
        name: its name.
        model: the network.
    """

    name: str = "plain"
    model: Model = field(default_factory=lambda: Model(width=8))
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    data: Path | None = None
    band_hz: tuple[float, float] = (20.0, 8000.0)
    weights: dict[str, float] = field(default_factory=dict)
    colour: Colour = Colour.RED
    limit: int | float = 3
    note: str = field(default="", metadata=MAY_CHANGE)


EVERYTHING = {
    "name": "x",
    "model": {"width": 4, "dilations": [1, 3], "kind": "rnn"},
    "optimizer": {"learning_rate": 1, "clip_norm": None},
    "data": "some/folder",
    "band_hz": [10, 20.5],
    "weights": {"mel": 2},
    "colour": "BLUE",
    "limit": 0.5,
}


def test_from_dict_converts_what_yaml_cannot_say():
    config = from_dict(Experiment, EVERYTHING)
    assert config.model == Model(4, (1, 3), "rnn")
    assert config.optimizer == OptimizerConfig(learning_rate=1.0, clip_norm=None)
    assert isinstance(config.optimizer.learning_rate, float)
    assert config.data == Path("some/folder")
    assert config.band_hz == (10.0, 20.5)
    assert config.weights == {"mel": 2.0}
    assert config.colour is Colour.BLUE
    assert config.limit == 0.5


def test_round_trip_through_dict_json_and_yaml():
    config = from_dict(Experiment, EVERYTHING)
    for values in (
        to_dict(config),
        json.loads(json.dumps(to_dict(config))),
        read_yaml(to_yaml(config)),
    ):
        assert from_dict(Experiment, values) == config


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=1e-30))
def test_any_learning_rate_survives_yaml(rate):
    config = OptimizerConfig(learning_rate=rate)
    assert from_dict(OptimizerConfig, read_yaml(to_yaml(config))) == config


def test_nested_differences_start_from_the_parents_default():
    # Experiment's model has width 8, although Model's own default is 16.
    assert from_dict(Experiment, {"model": {"kind": "rnn"}}).model == Model(
        8, kind="rnn"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimiser": {}}, "unknown key 'optimiser'; did you mean 'optimizer'"),
        ({"model": {"widht": 3}}, "unknown key 'model.widht'; did you mean 'width'"),
        ({"model": {"width": "3"}}, r"model.width: got '3' \(str\), expected int"),
        ({"model": {"width": 3.5}}, r"model.width: got 3.5 \(float\), expected int"),
        ({"model": {"width": True}}, r"model.width: got True \(bool\), expected int"),
        ({"model": {"kind": "tcm"}}, "one of .*'rnn'.; did you mean 'tcn'"),
        ({"model": 3}, "model: got 3"),
        ({"model": {"dilations": [1, "a"]}}, r"model.dilations\[1\]: got 'a'"),
        ({"model": {"dilations": "12"}}, "model.dilations: got '12'"),
        ({"band_hz": [1.0]}, "band_hz: got 1 items, expected 2"),
        ({"weights": {"mel": "a"}}, "weights.mel: got 'a'"),
        ({"colour": "BLEU"}, "did you mean 'BLUE'"),
        ({"fit": {"quiet": 1}}, "fit.quiet: got 1"),
        ({"fit": {"keep_every": "x"}}, "fit.keep_every: got 'x'"),
        ({"fit": {"log_every": 0}}, "log_every: got 0, expected at least 1"),
        ({"optimizer": {"learning_rate": -1.0}}, "learning_rate: got -1.0"),
        ({"optimizer": {"weight_decay": 0.1}}, "weight_decay: .* 'adamw'"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_by_name(values, message):
    with pytest.raises(ConfigurationError, match=message):
        from_dict(Experiment, values)


def test_a_required_key_is_asked_for():
    @dataclass(frozen=True)
    class Needy:
        path: str
        size: int = 1

    with pytest.raises(ConfigurationError, match=r"no value for \['path'\]"):
        from_dict(Needy, {"size": 2})
    assert from_dict(Needy, {"path": "a"}) == Needy("a")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("-2E5", -2e5), ("1.5e+2", 150.0), (".5", 0.5), ("3.", 3.0),
        ("7", 7), ("1_000", 1000), ("1.2.3", "1.2.3"), ("e5", "e5"), ("true", True),
        ("null", None), ("'1e-3'", "1e-3"), ("-.inf", float("-inf")),
    ],
)  # fmt: skip
def test_yaml_numbers_are_what_they_look_like(text, value):
    read = read_yaml(f"a: {text}")["a"]
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2", "line 4: key 'c' is given twice"),
        ("- 1", "expected 'key: value' lines"),
        ("a: [1", "not YAML"),
        ("a: !!python/object:os.system x", "not YAML"),
    ],
)
def test_bad_yaml_is_refused(text, message):
    with pytest.raises(ConfigurationError, match=message):
        read_yaml(text)


def test_presets_hold_differences_and_name_themselves_in_errors(tmp_path):
    preset = tmp_path / "small.yaml"
    preset.write_text("# a smoke preset\nmodel:\n  width: 2\nfit: {steps: 2}\n")
    expected = dataclasses.replace(
        Experiment(), model=Model(2), fit=FitConfig(steps=2)
    )  # fmt: skip
    assert load_preset(preset, Experiment) == expected
    (tmp_path / "empty.yaml").write_text("# nothing differs\n")
    assert load_preset(tmp_path / "empty.yaml", Experiment) == Experiment()
    preset.write_text("modle: {}")
    with pytest.raises(ConfigurationError, match=r"small\.yaml: unknown key 'modle'"):
        load_preset(preset, Experiment)
    with pytest.raises(ConfigurationError, match="cannot read preset"):
        load_preset(tmp_path / "missing.yaml", Experiment)


def test_command_line_wins_over_preset_and_preset_over_default(tmp_path):
    preset = tmp_path / "a.yaml"
    preset.write_text("name: preset\nmodel: {width: 2}\nfit: {steps: 7}")
    words = [f"--config={preset}", "--optimizer.learning_rate", "1e-2"]
    words += ["--fit.steps=9", "--model.dilations", "5", "6"]
    config = parse_command_line(Experiment, words)
    assert config.name == "preset" and config.model == Model(2, (5, 6))
    assert config.optimizer.learning_rate == 0.01 and config.fit.steps == 9
    two = parse_command_line(Experiment, ["--config", str(preset)])
    assert two == load_preset(preset, Experiment)
    assert parse_command_line(Experiment, []) == Experiment()


def test_command_line_refuses_and_suggests(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_command_line(Experiment, ["--optimizer.learning_rat", "1"])
    assert caught.value.code == 2
    assert "--optimizer.learning-rate" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        parse_command_line(Experiment, ["--fit.steps", "many"])
    assert caught.value.code == 2
    with pytest.raises(ConfigurationError, match="expected the path"):
        parse_command_line(Experiment, ["--config"])
    with pytest.raises(SystemExit) as caught:
        parse_command_line(Experiment, ["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "--config=PRESET.yaml" in shown and "channels." in shown


def test_flat_names_every_leaf():
    assert flat({"a": {"b": 1, "c": {}}, "d": [1, 2]}) == {
        "a.b": 1, "a.c": {}, "d": [1, 2],
    }  # fmt: skip


def test_only_marked_fields_may_change_on_resume():
    assert {"note", "fit.steps", "fit.quiet"} <= changeable(Experiment())
    assert not {"fit.seed", "name", "model.width"} & changeable(Experiment())
    stored = to_dict(Experiment())
    allowed = {"note": "x", "fit": {"steps": 5, "keep_every": 7}}
    refuse_changes(stored, from_dict(Experiment, allowed))
    changed = {**allowed, "name": "b", "model": {"dilations": [1]}}
    with pytest.raises(ConfigurationError) as caught:
        refuse_changes(stored, from_dict(Experiment, changed))
    message = str(caught.value)
    assert "name: was 'plain', is now 'b'" in message
    assert "model.dilations: was [1, 2, 4], is now [1]" in message
    assert "note" not in message and "steps" not in message
    del stored["band_hz"]
    with pytest.raises(ConfigurationError, match=r"band_hz: was '\(not there\)'"):
        refuse_changes(stored, Experiment())


def test_git_revision_says_commit_and_dirt(tmp_path):
    assert git_revision(tmp_path) == "unknown"

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(
            ["git", "-C", tmp_path, *identity, *words],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "first")
    revision = git("rev-parse", "HEAD")
    assert git_revision(tmp_path) == revision
    (tmp_path / "a").write_text("2")
    assert git_revision(tmp_path) == f"{revision}-dirty"
