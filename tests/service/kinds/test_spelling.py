"""Names in another case are one; near ones are told, and joined only where somebody says so."""

from service.kinds.spelling import near, spellings


def test_spellings_that_differ_in_case_or_spaces_count_as_the_commonest() -> None:
    names = ["Scratch", "scratch", "scratch", "SCRATCH ", "hair-line", "hair line", "Hair_Line"]
    same = spellings(names, {})
    assert {same[n] for n in ("Scratch", "scratch", "SCRATCH ")} == {"scratch"}
    assert len({same[n] for n in ("hair-line", "hair line", "Hair_Line")}) == 1


def test_a_misspelt_name_counts_as_the_one_that_somebody_says_it_is() -> None:
    same = spellings(["scratch", "scrach", "skratch"], {"Scrach": "SCRATCH", "skratch": "scrach"})
    assert set(same.values()) == {"scratch"}
    assert spellings(["dust"], {"dust": "Fibre"}) == {"dust": "Fibre"}


def test_circles_end() -> None:
    assert set(spellings(["a", "b"], {"a": "b", "b": "a"}).values()) <= {"a", "b"}


def test_near_names_are_told_the_likeliest_first() -> None:
    assert [m.like for m in near("scrach", ["dent", "scratch", "scratches"])] == [
        "scratch",
        "scratches",
    ]
    assert near("dent", ["dent", "pore"]) == []
