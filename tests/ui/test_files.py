"""What the page's files must be, whatever browser reads them."""

import hashlib
import importlib.util
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
UI = ROOT / "service/ui"
LANGUAGES = sorted(path.stem for path in (UI / "i18n").glob("*.json"))
OWN = [path for path in sorted(UI.rglob("*.js")) if path.name != "vendor.js"]
_KEY = r"[\w.]+(?:\$\{[^}]+\}[\w.]*)*"


def texts(language: str) -> dict[str, str]:
    document: dict[str, str] = json.loads((UI / f"i18n/{language}.json").read_text("utf-8"))
    return document


def keys_asked() -> dict[str, str]:
    """Return every key that a module names, with the module; `${…}` in it stands for anything."""
    return {
        key: path.name
        for path in OWN
        for key in re.findall(
            rf"""\bt\(\s*(?:\w[^"'`)]*\?\s*)?["'`]({_KEY})["'`]""", path.read_text("utf-8")
        )
    }


def test_every_language_has_the_same_keys_and_values() -> None:
    assert {"de", "en"} <= set(LANGUAGES)
    english = texts("en")
    for language in LANGUAGES:
        spoken = texts(language)
        assert set(spoken) == set(english), language
        assert list(spoken) == sorted(spoken), language
        for key, text in spoken.items():
            assert text, key
            assert text.strip() == text, key
            assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", english[key])), (
                key
            )


def test_every_text_that_a_module_asks_for_is_there() -> None:
    known = {re.sub(r"\.(one|other)$", "", key) for key in texts("en")}
    asked = keys_asked()
    assert len(asked) > 50
    for key, module in asked.items():
        pattern = re.compile(re.sub(r"\\\$\\\{.*?\\\}", r"[\\w ]+", re.escape(key)))
        assert any(pattern.fullmatch(name) for name in known), (key, module)


def test_no_text_is_left_over() -> None:
    source = "\n".join(path.read_text("utf-8") for path in OWN)
    stems = [re.sub(r"\$\{.*", "", key) for key in keys_asked() if "${" in key]
    stems += ["error.", "keys."]  # by the code of an error, and by action
    for key in texts("en"):
        name = re.sub(r"\.(one|other)$", "", key)
        assert name in source or any(name.startswith(stem) for stem in stems if stem), key


def test_no_module_holds_words_of_its_own() -> None:
    """Text between tags is a language's; symbols and the product's name are everybody's."""
    for path in OWN:
        for text in re.findall(
            r">([^<>`${}]*[A-Za-zÄÖÜ]{3,}[^<>`${}]*)</", path.read_text("utf-8")
        ):
            assert text.strip() in {"Maskline"}, (path.name, text)


def test_the_bundle_is_the_one_that_was_noted() -> None:
    note = json.loads((UI / "vendor.json").read_text("utf-8"))
    assert note["sha256"] == hashlib.sha256((UI / "vendor.js").read_bytes()).hexdigest()
    spec = importlib.util.spec_from_file_location("vendor", ROOT / ".ci/vendor.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert note["libraries"] == module.bundled()
    licences = (UI / "vendor-licences.txt").read_text("utf-8")
    assert all(name in licences for name in note["libraries"])


def test_nothing_of_the_page_lies_elsewhere() -> None:
    """No internet on the line: no address but those of namespaces."""
    for path in [*OWN, UI / "index.html", UI / "style.css"]:
        addresses = set(re.findall(r"https?://[^\s\"'`)]+", path.read_text("utf-8")))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path.name


def test_no_element_is_made_once_and_drawn_again() -> None:
    """It would hold the tree that it was drawn in first, and that one by one all trees since."""
    made_once = re.compile(r"^(?:export )?(?:const|let) [^\n]*= html`|^  \w+: html`", re.MULTILINE)
    for path in OWN:
        assert not made_once.search(path.read_text("utf-8")), path.name
