"""Junk in any place of a valid file is read, or refused with the file's name: nothing else."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.training.annotations.conftest import block, draw, image, masked, ring
from training.annotations.formats import FORMATS, read_labels
from training.annotations.labelled import Instance, LabelSet
from training.errors import DataError

junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def replaced(value: Any, data: st.DataObject) -> Any:
    """Put junk in the place of any part of a value."""
    if isinstance(value, dict | list) and value and data.draw(st.integers(0, 5)):
        key = data.draw(
            st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value)))
        )
        value[key] = replaced(value[key], data)
        return value
    return data.draw(junk)


@pytest.mark.parametrize("name", ["coco", "labelme", "labelstudio", "lookout"])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_junk_in_any_place_is_read_or_refused(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("x")
    defects = masked("scratch", block(2, 2, 5, 5)), ring("dent", [[9, 9], [20, 9], [9, 20]])
    boxed = Instance("pore", (1, 1, 3, 3))
    more = () if name == "lookout" else (boxed,)
    labels = LabelSet((image(folder / "in", "a.png", *defects, *more),))
    target = folder / "set"
    target.mkdir()
    FORMATS[name].write(labels, target)
    [path] = [p for p in target.rglob("*") if p.suffix in (".json", ".manifest")]
    path.write_text(json.dumps(replaced(json.loads(path.read_text()), data)))
    try:
        read_labels(path, name)
    except DataError as error:
        assert path.name in str(error)  # noqa: PT017 - either end is right


words = st.text(st.characters(codec="ascii"), max_size=6) | st.floats().map(str)
words |= st.integers().map(str)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(key=st.integers(0, 40), text=words)
def test_junk_in_any_attribute_of_cvat_is_read_or_refused(
    key: int, text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("x")
    defects = masked("scratch", block(2, 2, 5, 5)), ring("dent", [[9, 9], [20, 9], [9, 20]])
    labels = LabelSet((image(folder / "in", "a.png", *defects, Instance("pore", (1, 1, 3, 3))),))
    path = folder / "set/annotations.xml"
    path.parent.mkdir()
    FORMATS["cvat"].write(labels, path.parent)
    parts = path.read_text().split('"')
    place = 2 * (key % (len(parts) // 2)) + 1
    path.write_text('"'.join([*parts[:place], text, *parts[place + 1 :]]))
    try:
        read_labels(path, "cvat")
    except DataError as error:
        assert path.name in str(error)  # noqa: PT017 - either end is right


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(row=st.lists(words, max_size=8).map(" ".join) | st.text(max_size=20))
def test_junk_in_a_row_of_yolo_is_read_or_refused(
    row: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("x")
    draw(folder / "images/a.png")
    (folder / "data.yaml").write_text("names: [scratch]")
    (folder / "labels").mkdir()
    (folder / "labels/a.txt").write_bytes(row.encode("utf-8", "surrogatepass"))
    try:
        read_labels(folder)
    except DataError as error:
        assert "a.txt" in str(error)  # noqa: PT017 - either end is right
