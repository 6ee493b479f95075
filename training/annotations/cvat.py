"""CVAT for images 1.1, an XML file: https://docs.cvat.ai/docs/manual/advanced/xml_format/.

Boxes (turned ones become polygons), polygons, masks (run lengths along the rows of their box, the
first unmarked) and tags are read. A file with a document type is refused: CVAT writes none, and
entities are how XML attacks its reader. Images without a shape or tag are taken for good parts.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from supervised.masks import run_lengths
from training.annotations.labelled import Instance, LabelledImage, LabelSet
from training.annotations.lookup import Images
from training.annotations.reading import (
    Notes,
    box_of_numbers,
    brief,
    defects_of,
    kind_of,
    number,
    pixels_of_rows,
    read_text,
    ring_of,
    size_of,
    turned,
    whole_number,
    with_shape,
    without_good,
)
from training.annotations.shapes import Outlines, Runs, box_of
from training.annotations.writing import marked, place_image, plain_name, rounded
from training.errors import DataError
from training.labels import split_of
from training.samples import NORMAL, printable

_FILE = "annotations.xml"
_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class _Tree(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise DataError("it has a document type, which is refused: export it again from CVAT")


def file_of(source: Path) -> Path:
    """Return the file of a source."""
    return source / _FILE if source.is_dir() else source


def fits(source: Path) -> bool:
    """Whether a source looks like a set of this format."""
    path = file_of(source)
    if not path.is_file() or path.suffix.lower() != ".xml":
        return False
    with path.open("rb") as file:
        return b"<annotations" in file.read(4096)


def read(source: Path, images: Path | None = None) -> LabelSet:
    """Read a file, or `annotations.xml` of a folder. Raises `DataError`."""
    path, notes = file_of(source), Notes()
    name = str(printable(path))
    root = _parsed(path)
    if root.tag != "annotations":
        raise DataError(f"{name} is no file of CVAT: it begins with <{brief(root.tag)}>")
    if root.find("track") is not None:
        raise DataError(f"{name} is CVAT for video; export it as CVAT for images 1.1")
    lookup = Images.beside(path.parent, images)
    labelled = [
        _image(element, lookup, f"{name}, image {element.get('id', i)}", notes)
        for i, element in enumerate(root.iter("image"))
    ]
    if not labelled:
        raise DataError(f"{name} has no images; export it as CVAT for images 1.1")
    return LabelSet(tuple(labelled), notes.lines())


def _parsed(path: Path) -> ElementTree.Element:
    parser = ElementTree.XMLParser(target=_Tree())
    try:
        parser.feed(read_text(path))
        root: ElementTree.Element = parser.close()
    except ElementTree.ParseError as error:
        raise DataError(
            f"{printable(path)} is not XML ({error}); it is damaged or cut short: export it again"
        ) from error
    except DataError as error:
        text = str(error)
        raise DataError(
            text if text.startswith(str(printable(path))) else f"{printable(path)}: {text}"
        ) from error
    return root


def _image(element: ElementTree.Element, lookup: Images, where: str, notes: Notes) -> LabelledImage:
    size = size_of(element.get("height"), element.get("width"), where)
    opened = lookup.open(element.get("name"), where, size)
    instances, kinds = [], []
    for i, child in enumerate(element):
        place = f"{where}, {brief(child.tag)} {i}"
        if child.tag == "tag":
            kinds.append(kind_of(child.get("label"), place))
        elif child.tag in _SHAPES:
            kind = kind_of(child.get("label"), place)
            instances.append(_SHAPES[child.tag](kind, child.attrib, size, place))
        else:
            raise DataError(
                f"{place} is a {brief(child.tag)}, which is not read; draw a box, a polygon or a "
                "mask instead"
            )
    if not instances and not kinds:
        notes.add("images without a shape or tag are taken for good parts")
    return opened.labelled(
        instances=without_good(instances, notes),
        kinds=defects_of(kinds),
        split=split_of(element.get("subset") or "") or "",
    )


def _box(kind: str, row: Mapping[str, str], size: tuple[int, int], where: str) -> Instance:
    left, top, right, bottom = (
        number(row.get(key), f"{where}: {key}") for key in ("xtl", "ytl", "xbr", "ybr")
    )
    values = (left, top, right - left, bottom - top)
    angle = number(row.get("rotation", "0"), f"{where}: rotation")
    if not angle:
        return Instance(kind, box_of_numbers(values, size, where))
    corners = turned(values, angle, ((left + right) / 2, (top + bottom) / 2))
    return with_shape(kind, Outlines((ring_of(corners, size, where),)), where)


def _polygon(kind: str, row: Mapping[str, str], size: tuple[int, int], where: str) -> Instance:
    points = [point.split(",") for point in row.get("points", "").split(";")]
    return with_shape(kind, Outlines((ring_of(points, size, where),)), where)


def _mask(kind: str, row: Mapping[str, str], size: tuple[int, int], where: str) -> Instance:
    left, top, width, height = (
        whole_number(row.get(key), f"{where}: {key}") for key in ("left", "top", "width", "height")
    )
    if not width or not height or left + width > size[1] or top + height > size[0]:
        raise DataError(f"{where} lies outside of its image; correct or remove it")
    pixels = np.zeros(size, bool)
    crop = pixels_of_rows(row.get("rle", "").split(","), (height, width), where)
    pixels[top : top + height, left : left + width] = crop
    return with_shape(kind, Runs.of(pixels), where)


_Read = Callable[[str, Mapping[str, str], tuple[int, int], str], Instance]
_SHAPES: dict[str, _Read] = {"box": _box, "polygon": _polygon, "mask": _mask}


def write(labels: LabelSet, folder: Path) -> None:
    """Write `images/` and `annotations.xml`."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    for key, text in (("size", str(len(labels.images))), ("mode", "annotation")):
        ElementTree.SubElement(task, key).text = text
    names = ElementTree.SubElement(task, "labels")
    for kind in (*labels.kinds().values(), NORMAL):
        element = ElementTree.SubElement(names, "label")
        ElementTree.SubElement(element, "name").text = _checked(kind)
    for i, image in enumerate(labels.images):
        name = _checked(plain_name(image.name))
        place_image(image.path, folder / "images" / name)
        height, width = image.size
        place = {"id": str(i), "name": name, "width": str(width), "height": str(height)}
        subset = {"subset": image.split} if image.split else {}
        element = ElementTree.SubElement(root, "image", place | subset)
        for instance in image.instances:
            _write_instance(element, instance, image)
        for kind in image.kinds or ((NORMAL,) if image.is_good else ()):
            ElementTree.SubElement(element, "tag", {"label": kind, "source": "manual"})
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(folder / _FILE, encoding="utf-8", xml_declaration=True)


def _write_instance(element: ElementTree.Element, instance: Instance, image: LabelledImage) -> None:
    shape = instance.shape
    common = {"label": instance.kind, "source": "manual", "occluded": "0"}
    if shape is None:
        x, y, width, height = instance.box
        corners = {"xtl": x, "ytl": y, "xbr": x + width, "ybr": y + height}
        tag, place = "box", {key: f"{rounded(value)}" for key, value in corners.items()}
    elif isinstance(shape, Outlines) and len(shape.rings) == 1:
        points = ";".join(f"{rounded(x)},{rounded(y)}" for x, y in shape.rings[0].tolist())
        tag, place = "polygon", {"points": points}
    else:
        pixels = marked(instance, image)
        left, top, width, height = (int(value) for value in box_of(pixels))
        crop = pixels[top : top + height, left : left + width]
        counts = ", ".join(map(str, run_lengths(crop.ravel()).tolist()))
        sides = {"left": left, "top": top, "width": width, "height": height}
        tag = "mask"
        place = {"rle": counts} | {key: str(value) for key, value in sides.items()}
    ElementTree.SubElement(element, tag, common | place | {"z_order": "0"})


def _checked(text: str) -> str:
    if _NO_XML.search(text):
        raise DataError(f"{brief(text)} has characters that XML cannot hold; rename it")
    return text
