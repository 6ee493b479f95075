"""Files as the tools themselves write them, each after the tool's documentation."""

import base64
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.training.annotations.conftest import block, draw
from training.annotations.formats import read_labels, recognised
from training.annotations.labelled import LabelledImage
from training.annotations.lookout import union_of
from training.annotations.shapes import Outlines
from training.data import open_dataset


def only(source: Path, name: str, images: Path | None = None) -> LabelledImage:
    assert recognised(source) == name
    [image] = read_labels(source, images=images).images
    return image


def test_coco(tmp_path: Path) -> None:
    """cocodataset.org/#format-data: polygons, and uncompressed run lengths for crowds."""
    draw(tmp_path / "val2017/000000397133.jpg", (24, 32))
    value = {
        "info": {"description": "COCO 2017 Dataset", "year": 2017},
        "licenses": [],
        "images": [
            {
                "license": 4,
                "file_name": "000000397133.jpg",
                "coco_url": "http://images.cocodataset.org/val2017/000000397133.jpg",
                "height": 24,
                "width": 32,
                "id": 397133,
            }
        ],
        "annotations": [
            {
                "segmentation": [[2.5, 2.0, 10.0, 2.0, 10.0, 9.5], [20, 3, 24, 3, 24, 9, 20, 9]],
                "area": 52.5,
                "iscrowd": 0,
                "image_id": 397133,
                "bbox": [2.5, 2.0, 21.5, 7.5],
                "category_id": 18,
                "id": 1768,
            },
            {
                "segmentation": {"counts": [49, 5, 19, 5, 690], "size": [24, 32]},
                "area": 10,
                "iscrowd": 1,
                "image_id": 397133,
                "bbox": [2, 1, 2, 5],
                "category_id": 2,
                "id": 900100259690,
            },
        ],
        "categories": [
            {"supercategory": "surface", "id": 18, "name": "scratch"},
            {"supercategory": "surface", "id": 2, "name": "stain"},
        ],
    }
    path = tmp_path / "annotations/instances_val2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps(value))
    image = only(path, "coco")
    assert (image.split, image.all_kinds()) == ("validation", ("scratch", "stain"))
    np.testing.assert_array_equal(union_of(image, "stain"), block(1, 2, 5, 2))
    assert union_of(image, "scratch")[3:9, 20:24].all()
    assert image.instances[0].box == (2.5, 2.0, 21.5, 7.5)


def test_coco_of_roboflow(tmp_path: Path) -> None:
    """docs.roboflow.com, export of COCO JSON: a file in each split's folder, an empty category."""
    for split in ("train", "valid"):
        draw(tmp_path / split / "a.jpg")
        value = {
            "images": [{"id": 0, "file_name": "a.jpg", "height": 24, "width": 32}],
            "annotations": [
                {"id": 0, "image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "segmentation": []}
            ],
            "categories": [{"id": 0, "name": "defects"}, {"id": 1, "name": "scratch"}],
        }
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(value))
    assert recognised(tmp_path) == "coco"
    labels = read_labels(tmp_path)
    assert [(i.split, i.name) for i in labels.images] == [
        ("train", "train/a.jpg"),
        ("validation", "validation/a.jpg"),
    ]


def test_yolo_segmentation(tmp_path: Path) -> None:
    """docs.ultralytics.com/datasets/segment: its rows, and the YAML of coco8-seg."""
    draw(tmp_path / "images/train/000000000009.jpg", (1000, 500))
    rows = tmp_path / "labels/train/000000000009.txt"
    rows.parent.mkdir(parents=True)
    rows.write_text(
        "0 0.681 0.485 0.670 0.487 0.676 0.487\n"
        "1 0.504 0.000 0.501 0.004 0.498 0.004 0.493 0.010 0.492 0.0104\n"
    )
    (tmp_path / "data.yaml").write_text(
        "path: coco8-seg # dataset root dir\ntrain: images/train # 4 images\nval: images/train\n"
        "test: # test images (optional)\n\nnames:\n  0: scratch\n  1: dent\n"
    )
    image = only(tmp_path, "yolo")
    assert image.all_kinds() == ("scratch", "dent")
    shape = image.instances[0].shape
    assert isinstance(shape, Outlines)
    np.testing.assert_allclose(shape.rings[0][0], (340.5, 485))


def test_yolo_boxes_of_roboflow(tmp_path: Path) -> None:
    """docs.ultralytics.com/datasets/detect; Roboflow's data.yaml says ../train for train."""
    draw(tmp_path / "train/images/a.jpg", (480, 640))
    draw(tmp_path / "train/images/b.jpg", (480, 640))
    (tmp_path / "train/labels").mkdir()
    (tmp_path / "train/labels/a.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    (tmp_path / "data.yaml").write_text(
        "train: ../train/images\nnc: 2\nnames: ['dent', 'scratch']\n"
        "roboflow:\n  workspace: x\n  version: 1\n"
    )
    labels = read_labels(tmp_path)
    assert [image.is_good for image in labels.images] == [False, True]
    [instance] = labels.images[0].instances
    assert (instance.kind, instance.box, instance.shape) == ("scratch", (240, 120, 160, 240), None)
    assert labels.images[0].name == "train/a.jpg"
    assert labels.notes == ("1 images without rows are taken for good parts",)


def test_yolo_of_label_studio(tmp_path: Path) -> None:
    """labelstud.io/guide/export: YOLO with classes.txt beside images and labels."""
    draw(tmp_path / "images/a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "classes.txt").write_text("scratch\n")
    assert only(tmp_path, "yolo").instances[0].box == (8, 6, 16, 12)


def test_yolo_whose_images_lie_elsewhere(tmp_path: Path) -> None:
    draw(tmp_path / "camera/lot/a.jpg")
    (tmp_path / "set/labels/lot").mkdir(parents=True)
    (tmp_path / "set/labels/lot/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "set/classes.txt").write_text("scratch\n")
    assert not only(tmp_path / "set", "yolo", tmp_path / "camera").is_good


def test_labelme(tmp_path: Path) -> None:
    """github.com/wkentaro/labelme, version 5.5: a polygon, a rectangle, a circle and an AI mask.

    A mask is a PNG of 0 and 1, whose box includes its second corner (`utils/shape.py`).
    """
    draw(tmp_path / "000000331.jpg", (1600, 1200))
    crop = np.array([[1, 0, 1], [0, 1, 1]], np.uint8)
    png = base64.b64encode(cv2.imencode(".png", crop)[1].tobytes()).decode()
    points = [
        [471.7647058823529, 1020.0],
        [537.0588235294118, 1042.3529411764707],
        [622.9411764705883, 784.1176470588235],
    ]
    common = {"group_id": None, "description": "", "flags": {}, "mask": None}
    shapes = [
        {"label": "scratch", "points": points, "shape_type": "polygon"} | common,
        {"label": "dent", "points": [[60, 50], [20, 30]], "shape_type": "rectangle"} | common,
        {"label": "pore", "points": [[200, 200], [210, 200]], "shape_type": "circle"} | common,
        common | {"label": "stain", "points": [[7, 9], [9, 10]], "shape_type": "mask", "mask": png},
    ]
    value = {
        "version": "5.5.0",
        "flags": {"blurred": False},
        "shapes": shapes,
        "imagePath": "000000331.jpg",
        "imageData": None,
        "imageHeight": 1600,
        "imageWidth": 1200,
    }
    (tmp_path / "000000331.json").write_text(json.dumps(value))
    image = only(tmp_path, "labelme")
    assert image.all_kinds() == ("scratch", "dent", "pore", "stain")
    assert image.instances[1].box == (20, 30, 40, 20)
    assert union_of(image, "pore").sum() == pytest.approx(np.pi * 100, rel=0.02)
    np.testing.assert_array_equal(union_of(image, "stain")[9:11, 7:10], crop)
    assert image.instances[3].box == (7, 9, 3, 2)


def test_cvat(tmp_path: Path) -> None:
    """docs.cvat.ai/docs/manual/advanced/xml_format: shapes with attributes; a turned box."""
    draw(tmp_path / "images/filename000.jpg")
    draw(tmp_path / "images/filename001.jpg")
    (tmp_path / "annotations.xml").write_text(
        """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>4</id><name>segmentation</name><size>2</size><mode>annotation</mode>
    <labels><label><name>dent</name><attributes></attributes></label></labels></task>
    <dumped>2018-09-26 11:29:46+03:00</dumped></meta>
  <image id="0" name="filename000.jpg" subset="Train" width="32" height="24">
    <mask label="stain" source="manual" occluded="0" rle="0, 2, 1, 1, 2" left="3" top="4"
          width="3" height="2" z_order="0"></mask>
    <polygon label="dent" occluded="0" source="manual" points="1.5,1.0;9.0,1.0;9.0,8.25"
             z_order="0"><attribute name="depth">shallow</attribute></polygon>
    <box label="pore" xtl="10.0" ytl="10.0" xbr="20.0" ybr="14.0" rotation="90.0" z_order="0"/>
    <box label="Dent" occluded="0" xtl="1.0" ytl="2.0" xbr="3.5" ybr="5.0" z_order="0"></box>
    <tag label="dirty" source="manual"></tag>
  </image>
  <image id="1" name="filename001.jpg" width="32" height="24"></image>
</annotations>
"""
    )
    assert recognised(tmp_path) == "cvat"
    labels = read_labels(tmp_path)
    first, second = labels.images
    assert first.all_kinds() == ("stain", "dent", "pore", "dirty")
    assert (first.split, second.is_good) == ("train", True)
    expected = [[True, True, False], [True, False, False]]
    assert union_of(first, "stain")[4:6, 3:6].tolist() == expected
    np.testing.assert_array_equal(union_of(first, "pore"), block(7, 13, 10, 4))
    assert first.instances[3].box == (1, 2, 2.5, 3)
    assert labels.notes == ("1 images without a shape or tag are taken for good parts",)


def test_label_studio(tmp_path: Path) -> None:
    """labelstud.io/guide/task_format: uploads have a prefix; percent; an unfinished task."""
    draw(tmp_path / "media/scene.jpg", (200, 400))
    draw(tmp_path / "media/other.jpg")
    result = {
        "from_name": "tag",
        "id": "Dx_aB91ISN",
        "source": "$image",
        "to_name": "img",
        "type": "rectanglelabels",
        "original_width": 400,
        "original_height": 200,
        "image_rotation": 0,
        "value": {
            "height": 10.0,
            "rectanglelabels": ["scratch"],
            "rotation": 0,
            "width": 12.5,
            "x": 50.0,
            "y": 5.0,
        },
    }
    polygon = result | {
        "type": "polygonlabels",
        "value": {"points": [[0, 0], [50, 0], [50, 100]], "polygonlabels": ["dent"]},
    }
    annotation = {"id": 1001, "was_cancelled": False, "ground_truth": False, "task": 1}
    tasks = [
        {
            "id": 1,
            "project": 83,
            "data": {"image": "/data/upload/83/0a1b2c3d-scene.jpg"},
            "annotations": [annotation | {"result": [result, polygon]}],
            "predictions": [],
        },
        {"id": 2, "data": {"image": "/data/upload/83/x.jpg"}, "annotations": []},
        {
            "id": 3,
            "data": {"image": "/data/local-files/?d=media/other.jpg"},
            "annotations": [annotation | {"result": []}],
        },
    ]
    path = tmp_path / "project-83.json"
    path.write_text(json.dumps(tasks))
    assert recognised(path) == "labelstudio"
    labels = read_labels(path, images=tmp_path / "media")
    first, second = labels.images
    assert first.instances[0].box == (200, 10, 50, 20)
    np.testing.assert_allclose(first.instances[1].box, (0, 0, 200, 200))
    assert (first.name, second.name, second.is_good) == ("scene.jpg", "other.jpg", True)
    assert "1 tasks that nobody finished are not labelled and were left out" in labels.notes


def lookout_row(name: str, mask: str) -> dict[str, object]:
    """A line of "Troubleshooting model training" in Lookout's developer guide."""
    return {
        "source-ref": f"s3://path-to-bucket/{name}",
        "anomaly-label": 1,
        "anomaly-label-metadata": {
            "class-name": "anomaly",
            "creation-date": "2021-10-12T14:16:45.668",
            "human-annotated": "yes",
            "job-name": "labeling-job/classification-job",
            "type": "groundtruth/image-classification",
            "confidence": 1,
        },
        "anomaly-mask-ref": f"s3://path-to-bucket/{mask}",
        "anomaly-mask-ref-metadata": {
            "internal-color-map": {
                "0": {"class-name": "BACKGROUND", "hex-color": "#ffffff", "confidence": 0.0},
                "1": {"class-name": "scratch", "hex-color": "#2ca02c", "confidence": 0.0},
                "2": {"class-name": "dent", "hex-color": "#1f77b4", "confidence": 0.0},
            },
            "type": "groundtruth/semantic-segmentation",
            "human-annotated": "yes",
            "creation-date": "2021-11-23T20:31:57.758889",
            "job-name": "labeling-job/segmentation-job",
        },
    }


def lookout_mask(path: Path, scratch: np.ndarray, dent: np.ndarray) -> None:
    colours = np.full((24, 32, 3), 255, np.uint8)
    colours[scratch] = (0x2C, 0xA0, 0x2C)
    colours[dent] = (0x1F, 0x77, 0xB4)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), colours[..., ::-1])


def test_lookout(tmp_path: Path) -> None:
    draw(tmp_path / "bucket/train/anomaly/1.png")
    draw(tmp_path / "bucket/train/normal/1.png")
    scratch, dent = block(2, 3, 5, 9), block(12, 20, 4, 4)
    lookout_mask(tmp_path / "bucket/masks/1.png", scratch, dent)
    normal = {
        "source-ref": "s3://path-to-bucket/train/normal/1.png",
        "job": 0,
        "job-metadata": {"class-name": "normal", "type": "groundtruth/image-classification"},
    }
    rows = [lookout_row("train/anomaly/1.png", "masks/1.png"), normal]
    path = tmp_path / "train.manifest"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert recognised(path) == "lookout"
    bad, good = read_labels(path, images=tmp_path / "bucket").images
    assert (bad.name, bad.split, bad.kinds) == ("train/anomaly/1.png", "train", ())
    np.testing.assert_array_equal(union_of(bad, "scratch"), scratch)
    np.testing.assert_array_equal(union_of(bad, "dent"), dent)
    assert good.is_good
    with pytest.raises(Exception, match="maskline labels convert"):
        open_dataset(path)


def test_folders_of_mvtec(tmp_path: Path) -> None:
    """mvtec.com/company/research/datasets/mvtec-ad: its readme's tree."""
    for name in ("train/good/000.png", "train/good/001.png", "test/good/000.png"):
        draw(tmp_path / name)
    draw(tmp_path / "test/broken_large/000.png")
    mask = block(3, 4, 5, 6)
    truth = tmp_path / "ground_truth/broken_large/000_mask.png"
    truth.parent.mkdir(parents=True)
    cv2.imwrite(str(truth), mask * np.uint8(255))
    assert recognised(tmp_path) == "mvtec"
    [bad] = [image for image in read_labels(tmp_path).images if not image.is_good]
    assert (bad.name, bad.split) == ("test/broken_large/000.png", "test")
    np.testing.assert_array_equal(union_of(bad, "broken_large"), mask)
