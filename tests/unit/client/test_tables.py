"""Tables in files: every separator, encoding and decimal mark; folders and patterns; refusals without a cell."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moonflower.client.learning import cells, formats, tables
from moonflower.client.learning.rows import features
from moonflower.client.learning.sources import read_table, stamp
from moonflower.client.learning.tables import Format, batches, files_of, look, names_of
from moonflower.configs.columns import number
from moonflower.configs.schema import Categorical, Label, Numeric, Schema
from moonflower.errors import InputError, RowFaults

MARKER = "Wxyzzy"
WARD = Categorical("ward", ("Nord", "Süd"))
SCHEMA = Schema((Numeric("age", 0, 200), Numeric("dose", -10, 10), WARD), Label("y", (0, 1)))
ROWS = [[30 + at, round(0.25 + at / 8, 3), ("Nord", "Süd")[at % 2], at % 2] for at in range(40)]


def text(separator: str = ",", decimal: str = ".", rows: Any = ROWS, names: Any = ("age", "dose", "ward", "y")) -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([str(c).replace(".", decimal) if isinstance(c, float) else c for c in row] for row in rows)
    return out.getvalue()


def written(folder: Path, content: str | bytes, name: str = "t.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(content.encode(encoding) if isinstance(content, str) else content)
    return path


def refused(call: Any, *arguments: Any) -> InputError:
    with pytest.raises(InputError) as refusal:
        call(*arguments)
    told = f"{refusal.value} {refusal.value.hint}"
    assert MARKER not in told
    assert "Nord" not in told
    return refusal.value


def read(path: Path, *given: Any) -> int:
    return sum(batch.num_rows for batch in batches(path, *given))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_every_format_is_found_and_gives_the_same_numbers(
    tmp_path: Path, separator: str, decimal: str, encoding: str
) -> None:
    path = written(tmp_path, text(separator, decimal), encoding=encoding)
    assert look(path) == Format(separator, decimal, encoding.removesuffix("-sig"))
    frame = read_table(path)
    expected = [[age, dose, ("Nord", "Süd").index(ward)] for age, dose, ward, _ in ROWS]
    assert features(frame, SCHEMA, "t").tolist() == expected
    assert SCHEMA.label.read(frame, "t").tolist() == [row[3] for row in ROWS]


def test_a_given_format_stays_and_settles_what_is_open(tmp_path: Path) -> None:
    path = written(tmp_path, text(";", rows=[[at, f"{at},234", "Nord", at % 2] for at in range(1, 9)]))
    refusal = refused(look, path)
    assert "8 numbers in which a comma before three digits may be a decimal mark or one of thousands" in str(refusal)
    assert '[data] decimal = "." or decimal = ","' in refusal.hint
    assert look(path, Format(decimal=",")).decimal == ","
    assert features(read_table(path, Format(decimal=",")), SCHEMA, "t")[0, 1] == 1.234
    assert "8 of them would be right" in str(refused(features, read_table(path, Format(decimal=".")), SCHEMA, "t"))
    points = written(tmp_path, text(";", rows=[[at, f"{at}.234", "Nord", at % 2] for at in range(1, 9)]), "p.csv")
    assert "a point before three digits" in str(refused(look, points))
    both = written(tmp_path, text(";", rows=[[1, "1,5", "Nord", 0], [2, "1.5", "Nord", 1]]), "b.csv")
    assert "has numbers with a decimal comma, 1, and with a point, 1" in str(refused(look, both))
    assert "Expected" not in str(refused(features, read_table(both, Format(decimal=",")), SCHEMA, "t"))
    two = written(tmp_path, "a,b;c\n1,2;3\n4,5;6\n", "two.csv")
    refusal = refused(look, two)
    assert "can be cut into cells by the comma and by the semicolon" in str(refusal)
    assert look(two, Format(separator=";")).separator == ";"
    assert "latin-2x" in str(refused(look, path, Format(encoding="latin-2x", decimal=",")))


def test_what_is_no_header_is_told_without_a_cell(tmp_path: Path) -> None:
    for at, content in enumerate(
        [
            "1,5,3\n4,5,6\n",
            f"63,{MARKER},1\n" + "64,Nord,0\n" * 9,
            f"{MARKER}-10,x\n" + "".join(f"Person-{n},x\n" for n in range(11, 19)),
            f"{MARKER},Nord\n{MARKER},Nord\nb,c\n",
        ]
    ):
        assert "seems to have no header" in str(refused(look, written(tmp_path, content, f"{at}.csv")))
    for at, content in enumerate(["0,1,2\n4,5,6\n", "1,2\n1,2\n", "q1,q2\na1,b3\n", "a,b\nc,d\n", "a\n1\n2\n"]):
        assert look(written(tmp_path, content, f"good{at}.csv"))


def test_bad_tables_are_counted_without_a_cell(tmp_path: Path) -> None:
    uneven = f"a,b\n1,2\n{MARKER},2,3\n4,5\n6\n7,{MARKER},1\n"
    refusal = refused(read, written(tmp_path, uneven))
    assert isinstance(refusal, RowFaults)
    assert "has 2 rows with more cells and 1 row with fewer cells than the header; expected 2 cells" in str(refusal)
    assert refusal.rows == {"t.csv": (2, 4, 5)}
    doubled = written(tmp_path, f"{MARKER},b,{MARKER}\n1,2,3\n", "d.csv")
    assert "columns 1 and 3 have the same name" in str(refused(look, doubled))
    assert "columns 1 and 2 have no name" in str(refused(look, written(tmp_path, ",,a\n1,2,3\n", "n.csv")))
    for at, content in enumerate(
        [
            'a,b,c\n1,2,"3\n' + f"{MARKER},5,6\n" * 9,
            'a,b,c\n1,2,"3\n' + f"{MARKER},5,6\n" * 9 + '7,8,"9\n1,2,3\n',
            'a,b\n1,"2\n' + f"{MARKER},5\n" * 400_000,
        ]
    ):
        assert "has a quote that is not closed" in str(refused(read, written(tmp_path, content, f"q{at}.csv")))
    assert read(written(tmp_path, 'a,b\n1,"two\nlines, here"\n2,"5"" x"\n', "good.csv")) == 2
    assert "holds bytes of value 0" in str(refused(look, written(tmp_path, b"a,b\n\0,1\n", "z.csv")))
    wrong = written(tmp_path, text(), "u.csv", "cp1252")
    assert "is not text in UTF-8" in str(refused(read, wrong, Format(encoding="utf-8")))
    assert "is not text in UTF-8" in str(refused(read, wrong, Format(",", ".", "utf-8")))
    assert "is not compressed" in str(refused(look, written(tmp_path, "a,b\n1,2\n", "x.csv.gz")))
    assert "cannot be read (ArrowInvalid)" in str(refused(read, written(tmp_path, b"PAR1x", "x.parquet")))


def test_cells_stay_to_the_letter_and_batches_are_small(tmp_path: Path) -> None:
    path = written(tmp_path, 'a,b\n" 1 ",NA\n,"x ""y"""\n\n007,1.50\n')
    found = pa.Table.from_batches(list(batches(path, rows=2)))
    assert found.to_pydict() == {"a": [" 1 ", "", "007"], "b": ["NA", 'x "y"', "1.50"]}
    assert [batch.num_rows for batch in batches(path, rows=2)] == [2, 1]
    assert [batch.schema.names for batch in batches(path, columns=["b"])] == [["b"]]
    assert names_of(path) == ["a", "b"]


def test_folders_and_patterns_are_one_table(tmp_path: Path) -> None:
    for at, name in enumerate(["b.csv", "a.csv", "c.csv.gz"]):
        part = text(rows=ROWS[at * 4 : at * 4 + 4], names=("age", "dose", "ward", "y")).encode()
        written(tmp_path, gzip.compress(part) if name.endswith("gz") else part, name)
    written(tmp_path, MARKER, "notes.txt")
    written(tmp_path, MARKER, "_done.csv")
    order = [ROWS[at][0] for at in (4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11)]
    for path in (tmp_path, tmp_path / "[abc].csv*"):
        assert [file.name for file in files_of(path)] == ["a.csv", "b.csv", "c.csv.gz"]
        assert [int(age) for age in read_table(path)["age"]] == order
    before = stamp(tmp_path)
    written(tmp_path, text(names=("age", "dose", MARKER, "y")), "d.csv")
    assert stamp(tmp_path)[: len(before)] == before
    assert "column 3 of d.csv is not a column of a.csv" in str(refused(read, tmp_path))
    written(tmp_path, text(";"), "d.csv")
    assert "d.csv has another separator than a.csv" in str(refused(read, tmp_path))
    written(tmp_path, text(rows=[row[:3] for row in ROWS], names=("age", "dose", "ward")), "d.csv")
    assert "d.csv lacks column 4 of a.csv" in str(refused(read, tmp_path))
    pd.DataFrame({"age": [1]}).to_parquet(tmp_path / "e.parquet")
    assert "names CSV and Parquet files" in str(refused(files_of, tmp_path))
    assert "no file fits the pattern" in str(refused(files_of, tmp_path / "*.parquett"))
    (tmp_path / "empty").mkdir()
    assert "has no tables" in str(refused(files_of, tmp_path / "empty"))
    assert "unknown ending" in str(refused(files_of, tmp_path / "*.txt"))


def test_parquet_files_of_several_types_are_one_table(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([1, 2]), "b": ["x", None]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"b": ["y"], "a": pa.array([2.5])}), tmp_path / "2.parquet")
    frame = read_table(tmp_path)
    assert frame["a"].tolist() == [1, 2, 2.5]
    pq.write_table(pa.table({"a": ["x"], "b": ["y"]}), tmp_path / "3.parquet")
    assert "has a column of several types" in str(refused(read_table, tmp_path))
    assert read(tmp_path) == 4


NUMBERS = st.one_of(
    st.floats(allow_nan=False).map(repr),
    st.decimals(allow_nan=False, allow_infinity=False, places=6).map(str),
    st.sampled_from(["", " ", "NA", "nan", "inf", "-0", "+1", "1.", ".5", "1e400", "1_0", "x", "1.234", "١٢", "0x1"]),
    st.text(alphabet="0123456789.,eE+- ", max_size=12),
)


@given(st.lists(NUMBERS, max_size=20), st.sampled_from([".", ","]))
def test_numbers_have_the_bits_that_python_gives_them(words: list[str], decimal: str) -> None:
    words = [word.replace(".", decimal) for word in words]
    expected = [number(word, decimal) for word in words]
    plain = cells.numbers(pa.array(words, pa.string()), decimal)
    if plain is not None:
        assert None not in expected
        assert plain.tobytes() == np.array(expected, dtype=np.float64).tobytes()
    values, faults = Numeric("x", -1e300, 1e300).check(pd.Series(words, dtype=object), decimal)
    wrong = [word for word, value in zip(words, expected, strict=True) if value is None]
    assert sum(int(fault.at.sum()) for fault in faults if fault.what == "without a number") == len(wrong)
    assert len(values) == len(words)


def test_a_long_file_is_looked_at_whole_for_its_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "SAMPLE_BYTES", 200)
    monkeypatch.setattr(formats, "_BLOCK", 64)
    late = "a,b\n" + "x,y\n" * 100
    assert look(written(tmp_path, late + "ü,y\n")).encoding == "utf-8"
    assert look(written(tmp_path, late + "ü,y\n", "l.csv", "latin-1")).encoding == "cp1252"
    assert look(written(tmp_path, late.encode() + b"\x81\xfc,y\n", "m.csv")).encoding == "latin-1"
    assert read(tmp_path / "t.csv") == 101
    assert tables.BATCH_ROWS == 65536
