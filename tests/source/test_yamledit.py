# SPDX-License-Identifier: Apache-2.0
"""Editing one document of a text leaves every other byte where it is."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api.decode import to_yaml
from controller.source import yamledit

THREE = """\
# licence of the file

# about one
a: 1  # first
b:
  - x

# after one
---
# about two
a: 2
t: |
  text

  more
# after two
--- {a: 3}
# the end
"""


def test_replacing_keeps_the_comments_around_it() -> None:
    assert yamledit.replace(THREE, 1, "a: 9\n") == THREE.replace("a: 1  # first\nb:\n  - x\n", "a: 9\n")
    assert yamledit.replace(THREE, 2, "a: 9") == THREE.replace("a: 2\nt: |\n  text\n\n  more\n", "a: 9\n")
    assert yamledit.replace(THREE, 3, "a: 9\n") == THREE.replace("--- {a: 3}\n", "---\na: 9\n")


def test_removing_keeps_the_others() -> None:
    for index in (1, 2, 3):
        left = yamledit.remove(THREE, index)
        assert [d["a"] for d in yaml.safe_load_all(left) if d] == [n for n in (1, 2, 3) if n != index]
        for comment in ("# licence of the file", "# after one", "# after two", "# the end"):
            assert comment in left
    assert yamledit.remove("# only\na: 1\n", 1) == ""


def test_taking_one_out() -> None:
    assert yamledit.content_of(THREE, 2) == "a: 2\nt: |\n  text\n\n  more\n"
    assert yamledit.document_of(THREE, 2) == "# about two\na: 2\nt: |\n  text\n\n  more\n"
    assert yamledit.document_of(THREE, 1).startswith("# licence of the file\n\n# about one\na: 1")
    assert yaml.safe_load(yamledit.document_of(THREE, 3)) == {"a": 3}


def test_appending() -> None:
    assert yamledit.append("a: 1", "b: 2") == "a: 1\n---\nb: 2\n"
    assert yamledit.append("", "b: 2") == "b: 2\n"
    assert yamledit.append("a: 1\n...\n", "b: 2\n") == "a: 1\n...\n---\nb: 2\n"


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\r\n---\r\na: 2\r\n---\r\na: 3\r\n",
        "\ufeffa: 1\n---\na: 2\n---\na: 3",
        "%YAML 1.1\n---\na: 1\n...\n%YAML 1.1\n---\na: 2\n...\n---\na: 3\n...\n",
        "---\n  a: 1\n---   # here\n  a: 2\n---\n\n\n  a: 3\n\n\n",
        "--- &x {a: 1}\n--- !!map {a: 2}\n---\n? a\n: 3\n",
        "a:\n  1\n---\na: >-\n  2\n\n---\n'a': \"3\"\n# end",
        "{a: 1,\n b: [1,\n 2]} # c\n---\na: 2\nb:\n---\na: 3\nb: {c: [], d: }\n",
    ],
)
def test_shapes_that_people_write(text: str) -> None:
    assert len(yamledit.spans(text)) == 3
    for index in (1, 2, 3):
        documents = [d["a"] for d in yaml.safe_load_all(yamledit.replace(text, index, "a: 9\n"))]
        expected = [d["a"] for d in yaml.safe_load_all(text)]
        expected[index - 1] = 9
        assert documents == expected
        left = list(yaml.safe_load_all(yamledit.remove(text, index)))
        assert [d["a"] for d in left if d] == [a for i, a in enumerate(expected) if i != index - 1]


# PyYAML writes U+0085 in a way that it does not read back, so no text made by it can hold one.
_text = st.text(st.characters(exclude_characters="\x85", exclude_categories=["Cs"]), max_size=12)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=6,
)
_documents = st.dictionaries(st.text("abc", min_size=1, max_size=3), _values, min_size=1, max_size=3)
_comments = st.sampled_from(["", "# c\n", "\n", "# one\n\n# two\n"])


@settings(max_examples=40, deadline=None, database=None)
@given(st.lists(st.tuples(_comments, _documents, _comments), min_size=1, max_size=4), st.data())
def test_any_document_can_be_replaced_and_removed(parts: list, data: st.DataObject) -> None:
    text = "---\n".join(before + to_yaml(document) + after for before, document, after in parts)
    documents = [document for _, document, _ in parts]
    index = data.draw(st.integers(1, len(parts)))
    replaced = yamledit.replace(text, index, "new: 1\n")
    assert list(yaml.safe_load_all(replaced)) == [*documents[: index - 1], {"new": 1}, *documents[index:]]
    assert replaced.count("#") >= sum((b + a).count("#") for b, _, a in parts)
    left = [d for d in yaml.safe_load_all(yamledit.remove(text, index)) if d is not None]
    assert left == [*documents[: index - 1], *documents[index:]]
    assert yaml.safe_load(yamledit.document_of(text, index)) == documents[index - 1]
