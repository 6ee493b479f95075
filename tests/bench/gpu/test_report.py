from bench.gpu.report import table


def test_a_table_has_the_columns_of_all_rows() -> None:
    assert table([{"a": 1}, {"b": 0.1234}]).splitlines() == [
        "| a | b |",
        "|---|---|",
        "| 1 |  |",
        "|  | 0.123 |",
    ]
