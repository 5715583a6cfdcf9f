"""Reports say what was found, and say it to programs too; two of them are compared."""

import csv
import json

import numpy as np
import pytest

from holojax.errors import ConfigError, HoloJAXError
from holojax.metrics import Counts, compare, format_table, read_report, to_json, write_report

# True: river 60, field 30, road 0, town 10, sea 0; called: a road that is none, no sea.
CM = np.array([[50, 10, 0, 0, 0], [5, 25, 0, 0, 0], [0, 0, 0, 0, 0], [2, 0, 8, 0, 0], [0, 0, 0, 0, 0]])
NAMES = ("river", "field", "road", "town", "sea")


def evaluation(cm=CM, names=NAMES, split="val", boundary=0, seam=0, **others):
    bands = np.array([[9, 9, 4, 0, 0], [9, 9, 0, 0, 0], [6, 6, 0, 0, 0], *[[5, 5, 1, 0, 0]] * 4])
    counts = Counts(cm, bands if boundary else None, np.array([[80, 5], [10, 5]]) if seam else None)
    what = {"step": 7, "split": split, "classes": names, "boundary": boundary, "seam": seam}
    return counts.figures() | what | {"confusion": cm} | others


def test_the_table_has_a_line_a_class_and_says_what_the_means_leave_out():
    lines = format_table(evaluation(boundary=3, seam=8)).splitlines()
    assert lines[0].split() == ["class", "iou", "accuracy", "precision", "f1", "boundary_iou", "boundary_f1", "pixels"]
    assert lines[1].split() == ["river", "0.7463", "0.8333", "0.8772", "0.8547", "0.5000", "1.0000", "60"]
    assert lines[3].split() == ["road", "0.0000", "-", "0.0000", "0.0000", "0.0000", "1.0000", "0"]
    assert lines[5].split() == ["sea", *["-"] * 6, "0"]
    assert lines[6].split() == ["(mean)", "0.3428", "0.5556", "-", "0.4060", "0.3333", "1.0000", "100"]
    assert len({len(line) for line in lines[:7]}) == 1
    assert "oa 0.7500" in lines[7]
    assert lines[8] == "mean_boundary_iou 0.3333  mean_boundary_f1 1.0000"
    assert "seam_error 5.6667" in lines[9]
    assert lines[10] == "absent from truth and map, left out of all means: sea"
    assert lines[11].startswith("absent from the truth, called by mistake")
    assert lines[11].endswith(": road")
    assert lines[12] == "without a boundary in truth and map, left out of its means: town"


def test_nothing_is_said_of_classes_if_all_are_there():
    assert len(format_table(evaluation(np.eye(5, dtype=int))).splitlines()) == 1 + 5 + 1 + 1


def test_a_report_is_read_as_it_was_written(tmp_path):
    figures = evaluation(boundary=3, seam=8)
    paths = write_report(tmp_path / "new" / "report", figures)
    assert sorted(path.name for path in paths) == [
        "confusion.csv", "confusion.png", "metrics.csv", "metrics.json", "table.txt",
    ]  # fmt: skip
    found = read_report(tmp_path / "new" / "report")
    assert found.keys() == figures.keys() - {"confusion"} | {"pixels"}
    for name in ("iou", "recall", "boundary_f1", "miou", "seam_error"):
        assert np.array_equal(found[name], figures[name], equal_nan=True)
    assert (found["step"], found["split"], tuple(found["classes"])) == (7, "val", NAMES)
    assert (tmp_path / "new/report/table.txt").read_text() == format_table(figures)


def test_csv_holds_the_numbers_and_nothing_where_there_is_none(tmp_path):
    names = ('river, "wide"', *NAMES[1:])
    figures = evaluation(CM * 10**12, names)
    write_report(tmp_path, figures)
    with (tmp_path / "confusion.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header[1:] == [row[0] for row in rows] == list(names)
    assert np.array_equal(np.array([row[1:] for row in rows], np.int64), CM * 10**12)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [*names, "(mean)"]
    assert [float(row["iou"] or "nan") for row in rows[:-1]] == pytest.approx(figures["iou"], nan_ok=True)
    assert rows[4]["iou"] == ""
    assert float(rows[-1]["accuracy"]) == figures["macc"]


def test_the_picture_is_a_png_of_any_number_of_classes(tmp_path):
    for count in (1, 60):
        write_report(tmp_path, evaluation(np.eye(count, dtype=int), tuple(f"class {i}" for i in range(count))))
        assert (tmp_path / "confusion.png").read_bytes()[:4] == b"\x89PNG"


def test_json_is_strict():
    found = json.loads(to_json(evaluation()), parse_constant=pytest.fail)
    assert found["iou"][4] is None
    assert found["pixels"] == [60, 30, 0, 10, 0]
    assert "confusion" not in found


def test_a_folder_without_a_report_is_told(tmp_path):
    with pytest.raises(HoloJAXError, match=r"metrics.json: not found. Make it with"):
        read_report(tmp_path)
    for text in ("{", "[1]", '{"classes": ["a"]}', '{"iou": "high", "pixels": 1, "classes": 3}'):
        (tmp_path / "metrics.json").write_text(text)
        with pytest.raises(HoloJAXError, match="no report of an evaluation"):
            read_report(tmp_path)
    (tmp_path / "metrics.json").write_bytes(b"\xff")
    with pytest.raises(HoloJAXError, match="no report of an evaluation"):
        read_report(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(HoloJAXError, match="cannot be written"):
        write_report(tmp_path / "file", evaluation())


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("classes", (None, "ab", 3, [], ["river", 1, "road", "town", "sea"])),
        ("iou", ([0.5], 0.5, None, ["0.5"] * 5, [[0.5]] * 5, [True] * 5, {"river": 0.5})),
        ("f1", ([0.5], None)),
        ("miou", ("0.5", [0.5], True)),
        ("pixels", (["x"] * 5, [1, 2], None, [0.5] * 5, [None] * 5)),
    ],
)
def test_a_report_that_is_half_broken_is_refused_by_its_key(key, values, tmp_path):
    path = tmp_path / "metrics.json"
    for value in values:
        path.write_text(json.dumps(json.loads(to_json(evaluation())) | {key: value}))
        with pytest.raises(HoloJAXError, match=rf"metrics\.json: no report .* \({key}: expected .*, found "):
            read_report(tmp_path)
    for needed in ("classes", "iou", "pixels"):
        path.write_text(json.dumps({k: v for k, v in json.loads(to_json(evaluation())).items() if k != needed}))
        with pytest.raises(HoloJAXError, match=rf"\({needed}: expected .*, found None"):
            read_report(tmp_path)


def stored(tmp_path, **settings):
    (tmp_path / "metrics.json").write_text(to_json(evaluation(**settings)))
    return read_report(tmp_path)


def test_a_comparison_names_what_gained_and_what_lost(tmp_path):
    better = CM.copy()
    better[0] = [40, 20, 0, 0, 0]  # river loses
    better[3] = [2, 0, 0, 8, 0]  # town gains, and nothing is called a road any more
    text = compare(stored(tmp_path), stored(tmp_path, cm=better))
    overall, by_class, verdict = (part.splitlines() for part in text.split("\n\n"))
    figures = {line.split()[0]: line.split()[1:] for line in overall[1:]}
    assert figures["oa"] == ["0.7500", "0.7300", "-0.0200"]
    assert [line.split()[0] for line in by_class] == ["IoU", "town", "field", "river", "road", "sea"]
    assert by_class[1].split()[1:] == ["0.0000", "0.8000", "+0.8000"]
    assert by_class[4].split()[1:] == ["0.0000", "-", "-"]
    assert verdict == ["1 gained, 2 lost, 2 absent from one of them"]


def test_what_cannot_be_compared_is_refused_by_name(tmp_path):
    before = stored(tmp_path)
    with pytest.raises(ConfigError, match="number 1 is 'field' and 'forest'"):
        compare(before, stored(tmp_path, names=("river", "forest", *NAMES[2:])))
    with pytest.raises(ConfigError, match=r"5 and 4 classes\. Only in the first: sea; only in the second: none"):
        compare(before, stored(tmp_path, cm=CM[:4, :4], names=NAMES[:4]))
    with pytest.raises(ConfigError, match="splits 'val' and 'test'"):
        compare(before, stored(tmp_path, split="test"))


def test_figures_of_other_widths_are_not_compared_and_other_labels_are_told(tmp_path):
    before = stored(tmp_path, boundary=3, seam=8)
    text = compare(before, stored(tmp_path, cm=CM + 1, boundary=5, seam=8))
    assert "mean_boundary_iou" not in text
    assert "seam_error" in text
    assert "boundary widths are 3 and 5" in text
    assert "100 and 125 pixels count" in text
    assert "boundary widths" not in compare(before, stored(tmp_path))
