"""What people call defects, as the store has it."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from record.labelled import named_defects
from record.store import Store
from tests.record.test_store import result, spoken


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(Store.open(url)) as opened:
        yield opened


def test_the_labels_of_one_model_push_out_none_of_anothers(store: Store) -> None:
    store.add([result(1), result(2)] + [result(n, model="other") for n in range(3, 9)])
    for number in range(1, 9):
        assert store.add_feedback(spoken(number, "confirmed_defect", defect="dent")) is not None

    def named(model: str) -> list[int]:
        return [int(item.result.result_id, 16) for item in named_defects(store, model, 3)]

    assert (named("flange"), named("other")) == ([1, 2], [6, 7, 8])
    store.add_feedback(spoken(2, "withdrawn"))
    assert named("flange") == [1]
