"""YAML with places, overlays and overrides."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicetextblender.errors import RecipeError
from voicetextblender.train.yaml_tree import Tree, apply_override, overlay, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.5", 1.5),
        ("-3", -3),
        ("007", 7),
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("~", None),
        ("null", None),
        ("", None),
        ("'12'", "12"),
        ("[1, a, 2e3]", [1, "a", 2000.0]),
        ("{a: 1}", {"a": 1}),
        ("<|audio|>", "<|audio|>"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = parse_yaml(f"key: {text}", "x").values["key"]
    assert found == value and type(found) is type(value)


def test_every_key_knows_its_line() -> None:
    tree = parse_yaml("a: 1\nb:\n  c: 2\n  d:\n    - e: 3\n", "r.yaml")
    assert tree.origin(("a",)) == "r.yaml:1"
    assert tree.origin(("b", "c")) == "r.yaml:3"
    assert tree.origin(("b", "d", "0", "e")) == "r.yaml:5"
    assert tree.origin(("b", "unheard")) == "r.yaml:2"
    assert tree.origin(("unheard",)) == "r.yaml"


def test_bad_yaml_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: x\ntrain:\n  steps: [1, 2\nseed: 3\n")
    with pytest.raises(RecipeError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}:4: no valid YAML (")
    assert str(caught.value).endswith("; lines `key: value`, indented evenly. Mend that line.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "r.yaml: empty; a recipe has keys and values. Write at least `extends: mini`."),
        ("- 1", "r.yaml: no mapping at the top; a recipe has lines `key: value`. Write it as such lines."),
        ("a: 1\nb: 2\na: 3", "r.yaml:3 a: key written twice; each key once. Delete one of them."),
        ("[a, b]: 1", "r.yaml:1: a key that is no word; keys are words. Write `key: value`."),
    ],
)
def test_unusable_files_are_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "r.yaml")
    assert str(caught.value) == message


def test_tags_that_would_run_code_are_refused() -> None:
    with pytest.raises(RecipeError, match="no valid YAML"):
        parse_yaml("a: !!python/object/apply:os.getcwd []", "r.yaml")


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read_yaml(tmp_path / "none.yaml")
    assert str(caught.value) == (
        f"{tmp_path}/none.yaml: no such file; a recipe is a YAML file. Check the path, or see `vtb recipe list`."
    )
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"not readable .*; a recipe is a text file in UTF-8"):
        read_yaml(tmp_path / "binary.yaml")


def test_overlay_merges_sections_and_replaces_all_else() -> None:
    base = parse_yaml("a: 1\nb: {c: 2, d: [1, 2]}\ne: {f: 1}\n", "base")
    top = parse_yaml("b:\n  d: [3]\n  g: 4\ne: null\n", "top")
    merged = overlay(base, top)
    assert merged.values == {"a": 1, "b": {"c": 2, "d": [3], "g": 4}, "e": None}
    assert [merged.origin(path) for path in (("a",), ("b", "c"), ("b", "d"), ("b", "d", "0"))] == [
        "base:1",
        "base:2",
        "top:2",
        "top:2",
    ]
    assert base.values["b"] == {"c": 2, "d": [1, 2]}


def test_a_mapping_over_a_list_changes_its_items() -> None:
    base = parse_yaml("sources:\n  - {name: x, weight: 1}\n  - {name: y, weight: 1}\n", "base")
    top = parse_yaml("sources:\n  y: {weight: 0}\n", "top")
    merged = overlay(base, top)
    assert merged.values == {"sources": [{"name": "x", "weight": 1}, {"name": "y", "weight": 0}]}
    assert merged.origin(("sources", "1", "weight")) == "top:2"
    assert merged.origin(("sources", "1", "name")) == "base:3"
    assert base.values["sources"][1]["weight"] == 1
    with pytest.raises(RecipeError) as caught:
        overlay(base, parse_yaml("sources:\n  z: {weight: 0}\n", "top"))
    assert str(caught.value) == (
        "top:2 sources.z: no item 'z' in the list sources; it has 2 items, numbered from 0 or named x, y. "
        "Use one of these, or put the item into a recipe file."
    )


TREES = st.recursive(
    st.integers() | st.none(), lambda child: st.dictionaries(st.sampled_from("abc"), child, max_size=3), max_leaves=10
).filter(lambda value: isinstance(value, dict))


@given(TREES, TREES, TREES)
def test_overlay_is_associative_and_idempotent(a: dict, b: dict, c: dict) -> None:
    x, y, z = Tree(a), Tree(b), Tree(c)
    assert overlay(x, x).values == a
    if not _crosses(a, b) and not _crosses(b, c) and not _crosses(a, c):
        assert overlay(overlay(x, y), z).values == overlay(x, overlay(y, z)).values


def _crosses(a: dict, b: dict) -> bool:
    """Whether a section stands in one where a value stands in the other (then only the nearest one counts)."""
    for key in a.keys() & b.keys():
        if isinstance(a[key], dict) != isinstance(b[key], dict):
            return True
        if isinstance(a[key], dict) and _crosses(a[key], b[key]):
            return True
    return False


def test_overrides_reach_values_sections_and_items() -> None:
    tree = parse_yaml("a: {b: 1}\nsources: [{name: x, weight: 1}, {name: y, weight: 1}]\n", "r")
    for override in (
        "a.b=2",
        "new.deep=1e-4",
        "sources.0.weight=3",
        "sources.y.weight=0.5",
        "text=a=b",
        "flags=[1, 2]",
    ):
        apply_override(tree, override)
    assert tree.values == {
        "a": {"b": 2},
        "sources": [{"name": "x", "weight": 3}, {"name": "y", "weight": 0.5}],
        "new": {"deep": 1e-4},
        "text": "a=b",
        "flags": [1, 2],
    }
    assert tree.origin(("a", "b")) == "command line 'a.b=2'"
    assert tree.origin(("sources", "1", "weight")) == "command line 'sources.y.weight=0.5'"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "command line 'steps': no override; `key.key=value`. Write it like train.steps=10."),
        ("a..b=1", "command line 'a..b=1': no override; `key.key=value`. Write it like train.steps=10."),
        (
            "a.b.c=1",
            "command line 'a.b.c=1': a.b is the value 1; only a section has keys below it. Shorten the key.",
        ),
        (
            "sources.z.weight=1",
            "command line 'sources.z.weight=1': no item 'z' in the list sources; it has 2 items, numbered from 0 or "
            "named x, y. Use one of these, or put the item into a recipe file.",
        ),
    ],
)
def test_bad_overrides_are_refused(override: str, message: str) -> None:
    tree = parse_yaml("a: {b: 1}\nsources: [{name: x}, {name: y}]\n", "r")
    with pytest.raises(RecipeError) as caught:
        apply_override(tree, override)
    assert str(caught.value) == message


def test_bad_yaml_in_an_override_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"^command line 'a=\[1':1: no valid YAML"):
        apply_override(Tree({}), "a=[1")
