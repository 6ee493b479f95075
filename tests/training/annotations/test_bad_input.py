"""Whatever a file holds is read, or refused with the item, what is wrong, and what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.annotations.conftest import SIZE, block, draw
from tests.training.annotations.test_golden import lookout_mask, lookout_row
from training.annotations.formats import FORMATS, read_labels, recognised
from training.annotations.labelled import LabelSet
from training.annotations.rle import brush_code, brush_pixels
from training.errors import DataError

HOSTILE = ("../a.png", "/etc/a.png", "x/../../a.png", "..\\a.png", "C:\\a.png", "file:///a.png")


@pytest.fixture
def coco(tmp_path: Path) -> Callable[..., str]:
    """Reads a set of one image and one annotation, changed; returns the error."""
    draw(tmp_path / "a.png")
    path = tmp_path / "labels.json"

    def error(change: Callable[[dict[str, Any]], object], pattern: str) -> str:
        value: dict[str, Any] = {
            "images": [{"id": 1, "file_name": "a.png", "height": 24, "width": 32}],
            "annotations": [{"id": 7, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]}],
            "categories": [{"id": 3, "name": "scratch"}],
        }
        change(value)
        path.write_text(json.dumps(value))
        with pytest.raises(DataError, match=pattern) as caught:
            read_labels(path, "coco")
        assert str(path) in str(caught.value)
        return str(caught.value)

    return error


@pytest.mark.parametrize(
    ("box", "pattern"),
    [
        ([1, 2, -3, 4], r"annotations\[0\] has a box of -3×4 px; want a positive"),
        ([1, 2, 0, 4], "has a box of 0×4 px"),
        ([1, 2, 40, 4], "reaches to 41, outside of its image, whose side is 32 px"),
        ([-9, 2, 3, 4], "reaches to -9"),
        ([33, 2, 1, 4], "outside of its image"),
        ([1, 2, float("nan"), 4], "the box is nan; want a finite number"),
        ([1, 2, float("inf"), 4], "the box is inf; want a finite number"),
        ([1, 2, 10**400, 4], "want a finite number"),
        ([1, 2, 3], "has a box of 3 numbers"),
        ([1, 2, "x", True], "the box is 'x'; want a finite number"),
        ("0 0 3 3", "bbox is '0 0 3 3'; want an array"),
    ],
)
def test_bad_boxes(coco: Callable[..., str], box: object, pattern: str) -> None:
    coco(lambda value: value["annotations"][0].update(bbox=box), pattern)


@pytest.mark.parametrize(
    ("segmentation", "pattern"),
    [
        ([[1, 1, 5, 5]], "a polygon of 2 points; want 3"),
        ([[1, 1, 5, 5, 9]], "a polygon of 5 numbers; want pairs"),
        ([[1, 1, 5, 5, 90, 9]], r"point 2 reaches to 90, outside of its image"),
        ([[1, 1, 5, 5, float("nan"), 9]], "point 2 is nan"),
        ([[1, 1, 5, 1, 9, 1]], "a polygon that encloses nothing"),
        ({"size": [24, 32], "counts": [700]}, "runs of 700 pixels together, but .* has 768"),
        ({"size": [24, 32], "counts": [10**18, 5]}, "runs of 1000000000000000005 pixels"),
        ({"size": [24, 32], "counts": [-5, 773]}, "a run's length is -5"),
        ({"size": [24, 32], "counts": [0] * 2000}, "2000 runs for 768 pixels"),
        ({"size": [24, 32], "counts": [768]}, "a mask that marks nothing"),
        ({"size": [32, 24], "counts": [768]}, r"run lengths for the size \[32, 24\]"),
        ({"size": [24, 32], "counts": "zzzzzzzzzzzzzzzzz"}, "run lengths .*damaged"),
        ({"size": [24, 32]}, "counts is None; want an array"),
        (5, "the segmentation is 5; want an object"),
    ],
)
def test_bad_shapes(coco: Callable[..., str], segmentation: object, pattern: str) -> None:
    coco(lambda value: value["annotations"][0].update(segmentation=segmentation), pattern)


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda v: v["annotations"][0].update(category_id=9), "has the category 9, which is not"),
        (lambda v: v["annotations"][0].update(category_id=[9]), "want a number or a text"),
        (lambda v: v["annotations"][0].update(image_id=9), "belongs to the image 9, which is not"),
        (lambda v: v["annotations"].append(v["annotations"][0]), r"\[1\] has the id 7 again"),
        (lambda v: v["images"].append(v["images"][0]), r"images\[1\] has the id 1 again"),
        (lambda v: v["images"].append({**v["images"][0], "id": 2}), "name the same image"),
        (lambda v: v["categories"].append(v["categories"][0]), "has the id 3 again"),
        (lambda v: v["categories"][0].update(name=""), "has the kind ''; want the name"),
        (lambda v: v["categories"][0].update(name="x" * 70_000), "which is no name"),
        (lambda v: v["categories"][0].update(name="\ud800"), "which is no name"),
        (lambda v: v["categories"][0].update(name="positive"), "some use for good parts"),
        (lambda v: v["images"][0].update(width=33), "says 33×24 px, but .* has 32×24 px"),
        (lambda v: v["images"][0].update(height=-24), "want a whole number from 0 on"),
        (lambda v: v["images"][0].update(file_name="b.png"), "not below .*--images FOLDER"),
        (lambda v: v["images"][0].update(file_name="x" * 5000), "not below .*--images FOLDER"),
        (lambda v: v["images"][0].update(file_name="a\0.png"), "want the path of a file"),
        (lambda v: v["images"][0].update(file_name="labels.json"), "not read as an image"),
        (lambda v: v.pop("categories"), "lacks 'categories', so that it is no COCO file"),
        (lambda v: v.update(images=7), "images is 7; want an array"),
        (lambda v: v["annotations"].append("x"), r"annotations\[1\] is 'x'; want an object"),
        (lambda v: v["annotations"][0].pop("bbox"), "neither 'bbox' nor 'segmentation'"),
    ],
)
def test_bad_rows(coco: Callable[..., str], change: Callable[[Any], object], pattern: str) -> None:
    coco(change, pattern)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_lead_out_of_the_set(coco: Callable[..., str], name: str) -> None:
    coco(lambda value: value["images"][0].update(file_name=name), "leads out of the set; say where")


def test_a_path_upwards_is_looked_up_by_its_end_where_images_lie(tmp_path: Path) -> None:
    """LabelMe writes paths from its file to the image, such as ..\\imgs\\0001.jpg."""
    draw(tmp_path / "imgs/a.png")
    value = {"shapes": [], "imagePath": "..\\imgs\\a.png", "imageHeight": 24, "imageWidth": 32}
    path = tmp_path / "json/a.json"
    path.parent.mkdir()
    path.write_text(json.dumps(value))
    with pytest.raises(DataError, match="--images FOLDER"):
        read_labels(path)
    assert read_labels(path, images=tmp_path / "imgs").images[0].name == "a.png"


def test_an_image_that_is_none(tmp_path: Path, coco: Callable[..., str]) -> None:
    (tmp_path / "a.png").write_bytes(b"not a picture")
    coco(lambda value: None, "cannot be read; replace or remove it")


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "text", "pattern"),
    [
        ("a.json", '{"images": [', "is not JSON .*export it again"),
        ("a.json", "[" * 100_000, "is not JSON"),
        ("a.json", "{}", "no format that is recognised; say which: --from mvtec"),
        ("annotations.xml", "<annotations><image", "is not XML .*export it again"),
        ("annotations.xml", "<annotations><version>1.1</version></annotations>", "has no images"),
        ("annotations.xml", "<annotations><track/></annotations>", "is CVAT for video"),
        ("data.yaml", "names: [a\nx: {", "is not YAML"),
        ("data.yaml", "train: images", "lacks 'names'"),
        ("data.yaml", "names: {1: a}", "want 0, 1"),
        ("data.yaml", "names: 5", "has the names 5; want a list"),
        ("data.yaml", "names: [a]\ntrain: ../../etc", "no folder below"),
        ("data.yaml", "names: [a]\ntrain: /etc", "leads out of the set"),
        ("data.yaml", "names: [a]\ntrain: 5", "want the name of a folder"),
        ("data.yaml", "a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]", "aliases"),
        ("x.manifest", '{"source-ref": "a.png"', "is not JSON"),
        ("x.manifest", '{"source-ref": "a.png"}', "says nothing of its image"),
        ("x.manifest", '{"source-ref": "b.png", "anomaly-label": 1}', "is not below"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, text: str, pattern: str) -> None:
    draw(tmp_path / "a.png")
    path = write_text(tmp_path / name, text)
    with pytest.raises(DataError, match=pattern):
        read_labels(path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"images": "\xff"}')
    with pytest.raises(DataError, match=r"is not UTF-8 \(byte 12\)"):
        read_labels(tmp_path / "a.json")


@pytest.mark.parametrize("name", [n for n in FORMATS if n not in ("mvtec", "yolo")])
def test_files_of_another_format(tmp_path: Path, name: str) -> None:
    text = '{"a": 1}' if name in ("coco", "labelme", "labelstudio", "lookout") else "<x/>"
    path = write_text(tmp_path / ("x.xml" if name == "cvat" else "x.json"), text)
    with pytest.raises(DataError, match=r"x\.(json|xml)"):
        read_labels(path, name)


def test_a_source_that_is_nothing_or_two_things(tmp_path: Path, labels: LabelSet) -> None:
    with pytest.raises(DataError, match="does not exist"):
        recognised(tmp_path / "none")
    with pytest.raises(DataError, match="the format 'voc' is not among mvtec"):
        read_labels(tmp_path, "voc")
    draw(tmp_path / "set/good/a.png")
    write_text(tmp_path / "set/data.yaml", "names: [a]")
    with pytest.raises(DataError, match="fits mvtec and yolo; say which: --from "):
        recognised(tmp_path / "set")


BOMB = """<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "aaaaaaaaaa">
<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;">]>
<annotations><image name="&c;"/></annotations>"""
OUTSIDE = """<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>"""


@pytest.mark.parametrize("text", [BOMB, OUTSIDE])
def test_xml_with_entities_is_refused(tmp_path: Path, text: str) -> None:
    path = write_text(tmp_path / "annotations.xml", text)
    with pytest.raises(DataError, match=r"annotations\.xml: it has a document type"):
        read_labels(path, "cvat")


@pytest.mark.parametrize(
    ("shape", "pattern"),
    [
        ('<box label="x" xtl="5" ytl="5" xbr="4" ybr="9"/>', "a box of -1×4 px"),
        ('<box label="x" xtl="5" ytl="5" xbr="nan" ybr="9"/>', "xbr is 'nan'"),
        ('<box label="x" xtl="5" ytl="5" ybr="9"/>', "xbr is None"),
        ('<polygon label="x" points="1,1;2,2"/>', "a polygon of 2 points"),
        ('<polygon label="x" points="1,1;2;3,3"/>', "point 1 is .*want x, y"),
        ('<polygon label="x"/>', "a polygon of 1 points"),
        ('<mask label="x" rle="1, 2" left="0" top="0" width="2" height="2"/>', "runs of 3 pixels"),
        ('<mask label="x" rle="4" left="31" top="0" width="2" height="2"/>', "outside"),
        ('<mask label="x" rle="0, a" left="0" top="0" width="2" height="2"/>', "' a'"),
        ('<mask label="x" rle="0, 9" left="0" top="0" width="999999999" height="9"/>', "outside"),
        ('<polyline label="x" points="1,1;2,2"/>', "is a 'polyline', which is not read"),
        ('<box label=" " xtl="1" ytl="5" xbr="4" ybr="9"/>', "has the kind ' '"),
    ],
)
def test_bad_shapes_of_cvat(tmp_path: Path, shape: str, pattern: str) -> None:
    draw(tmp_path / "a.png")
    text = f'<annotations><image name="a.png" width="32" height="24">{shape}</image></annotations>'
    path = write_text(tmp_path / "annotations.xml", text)
    with pytest.raises(DataError, match=pattern) as caught:
        read_labels(path)
    assert "annotations.xml, image 0" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "pattern"),
    [
        ("1 0.5 0.5 0.1 0.1", "line 2 has the class 1; there are names for 0 to 0"),
        ("-1 0.5 0.5 0.1 0.1", "the class is '-1'"),
        ("0 0.5 0.5 -0.1 0.1", "a box of"),
        ("0 0.5 0.5 nan 0.1", "'nan'"),
        ("0 0.1 0.1 0.2", "3 numbers"),
        ("0 0.1 0.1 0.2 0.2 3 0.3", "outside of its image"),
        ("0", "0 points"),
    ],
)
def test_bad_rows_of_yolo(tmp_path: Path, row: str, pattern: str) -> None:
    draw(tmp_path / "images/a.png")
    write_text(tmp_path / "data.yaml", "names: [scratch]")
    write_text(tmp_path / "labels/a.txt", f"0 0.5 0.5 0.1 0.1\n{row}\n")
    with pytest.raises(DataError, match=pattern) as caught:
        read_labels(tmp_path)
    assert "a.txt, line 2" in str(caught.value)


def test_yolo_sets_whose_files_do_not_agree(tmp_path: Path) -> None:
    draw(tmp_path / "images/a.png")
    write_text(tmp_path / "data.yaml", "names: [scratch]")
    with pytest.raises(DataError, match="as else all would be good parts"):
        read_labels(tmp_path)
    write_text(tmp_path / "labels/a.txt", "")
    write_text(tmp_path / "labels/b.txt", "0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=r"b\.txt has no image"):
        read_labels(tmp_path)
    (tmp_path / "labels/b.txt").unlink()
    draw(tmp_path / "images/a.bmp")
    with pytest.raises(DataError, match="differ in their extension alone"):
        read_labels(tmp_path)


@pytest.mark.parametrize(
    ("shape", "pattern"),
    [
        ({"shape_type": "line", "points": [[1, 1], [2, 2]]}, "a 'line', which covers no area"),
        ({"shape_type": "rectangle", "points": [[1, 1]]}, "a rectangle of 1 points; want two"),
        ({"shape_type": "circle", "points": [[5, 5], [5, 5]]}, "encloses nothing"),
        ({"shape_type": "polygon", "points": [[1, 1], [2], [3, 3]]}, "point 1 is"),
        ({"shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": "%"}, "is not base64"),
        ({"shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": "AAAA"}, "is no PNG of 2×2"),
        ({"shape_type": "mask", "points": [[1, 1], [99, 2]], "mask": ""}, "outside of its image"),
        ({"shape_type": "mask", "points": [[9, 9], [2, 2]], "mask": ""}, "outside of its image"),
        ({"points": None}, "points is None"),
    ],
)
def test_bad_shapes_of_labelme(tmp_path: Path, shape: dict[str, Any], pattern: str) -> None:
    draw(tmp_path / "a.png")
    value = {
        "shapes": [{"label": "scratch"} | shape],
        "imagePath": "a.png",
        "imageHeight": 24,
        "imageWidth": 32,
    }
    write_text(tmp_path / "a.json", json.dumps(value))
    with pytest.raises(DataError, match=pattern) as caught:
        read_labels(tmp_path)
    assert "a.json, shapes[0]" in str(caught.value)


@pytest.mark.parametrize(
    ("code", "pattern"),
    [
        (brush_code(np.ones((5, 5), bool)), "a brush mask of 100 values; .* wants 3072"),
        (brush_code(np.ones(SIZE, bool))[:-3], "cut short"),
        ([], "cut short"),
        ([300], "not of bytes"),
        (["a"], "not of bytes"),
        ([0, 0, 12, 0, 0, 0, 0, 0, 0], "bits a value; want 8"),
    ],
)
def test_bad_brushes(code: list[Any], pattern: str) -> None:
    with pytest.raises(DataError, match=pattern):
        brush_pixels(code, SIZE, "task 1")


@pytest.mark.parametrize(
    ("result", "pattern"),
    [
        ({"type": "ellipselabels", "value": {}}, "'ellipselabels', which is not read"),
        ({"type": "rectanglelabels", "value": {"x": 1}}, "y is None"),
        ({"type": "brushlabels", "value": {"format": "png"}}, "the format 'png'; want rle"),
        ({"type": "polygonlabels", "value": {"points": [[1, 1]], "polygonlabels": ["x"]}}, "1 poi"),
        ({"type": "choices", "value": {"choices": "x"}}, "choices is 'x'"),
        ({"type": "choices", "value": {"choices": ["x"]}, "image_rotation": 90}, "a turned image"),
        ({"type": "choices"}, "value is None"),
    ],
)
def test_bad_results_of_label_studio(tmp_path: Path, result: object, pattern: str) -> None:
    draw(tmp_path / "a.png")
    task = {"id": 5, "data": {"image": "a.png"}, "annotations": [{"result": [result]}]}
    path = write_text(tmp_path / "a.json", json.dumps([task]))
    with pytest.raises(DataError, match=pattern) as caught:
        read_labels(path)
    assert "task 5, result 0" in str(caught.value)


def colours_of(row: dict[str, Any]) -> Any:
    return row["anomaly-mask-ref-metadata"]["internal-color-map"]


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (
            lambda r: colours_of(r)["1"].update({"hex-color": "#2ca02d"}),
            "the colour #2ca02c, which",
        ),
        (lambda r: colours_of(r)["1"].update({"hex-color": "green"}), "the hex-color 'green'"),
        (lambda r: colours_of(r)["1"].update({"hex-color": "#1f77b4"}), "of another kind"),
        (lambda r: r.update({"anomaly-mask-ref": "s3://b/none.png"}), "is not below"),
        (lambda r: r["anomaly-label-metadata"].update({"class-name": "normal"}), "called normal"),
        (lambda r: r["anomaly-mask-ref-metadata"].pop("internal-color-map"), "internal-color-map"),
    ],
)
def test_bad_lines_of_lookout(
    tmp_path: Path, change: Callable[[Any], object], pattern: str
) -> None:
    draw(tmp_path / "1.png")
    lookout_mask(tmp_path / "masks/1.png", block(2, 3, 5, 9), block(12, 20, 4, 4))
    row = lookout_row("1.png", "masks/1.png")
    change(row)
    path = write_text(tmp_path / "x.manifest", json.dumps(row))
    with pytest.raises(DataError, match=pattern) as caught:
        read_labels(path)
    assert "x.manifest, line 1" in str(caught.value)


def test_a_mask_of_another_size_than_its_image(tmp_path: Path) -> None:
    draw(tmp_path / "1.png")
    draw(tmp_path / "masks/1.png", (24, 33))
    row = lookout_row("1.png", "masks/1.png")
    path = write_text(tmp_path / "x.manifest", json.dumps(row))
    with pytest.raises(DataError, match=r"says 32×24 px, but .* has 33×24 px"):
        read_labels(path)
