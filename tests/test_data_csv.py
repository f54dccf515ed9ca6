"""CSV files that name images."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from jaxrec.data import Feature, open_dataset
from jaxrec.data.files import Known, Parts
from jaxrec.errors import UserError


def images(folder, count=10):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("L", (4, 5), number).save(folder / f"{number}.png")
    return folder


def table(folder, header, rows):
    path = folder / "set.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def values(split):
    return split.load()["image"][:, 0, 0, 0]


def labels(split):
    """The class of each example by its file."""
    return {split.file(place): label for place, label in enumerate(split.load()["label"].tolist())}


def test_labels_of_one_class(tmp_path):
    images(tmp_path / "photos")
    path = table(tmp_path, "path,label", [f"photos/{i}.png,{'cat' if i % 2 else 'dog'}" for i in range(10)])
    data = open_dataset(f"csv:{path}")
    assert data.features == {
        "image": Feature("image", (5, 4, 1), "uint8"),
        "label": Feature("class", (), "int32", ("cat", "dog")),
    }
    for split in data.splits.values():
        assert_array_equal(split.load()["label"], (values(split) + 1) % 2)
    assert [np.bincount(split.load()["label"]).tolist() for split in data.splits.values()] == [[4, 4], [1, 1]]
    assert open_dataset(f"csv:{path}", reads={"image": "image"}).features.keys() == {"image"}


def test_several_classes(tmp_path):
    images(tmp_path)
    cells = ["a;b", "b", "", "c;a", "a ; c", "b", "b", "b", "b", "b"]
    path = table(tmp_path, "path,labels,split", [f"{i}.png,{cells[i]},train" for i in range(8)])
    path.write_text(path.read_text() + "8.png,b,test\n9.png,b,test\n")
    data = open_dataset(f"csv:{path}", reads={"image": "image", "label": "class|classes"})
    assert data.features["label"] == Feature("classes", (3,), "int32", ("a", "b", "c"))
    train = data.splits["train"].load()
    expected = [[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1], [1, 0, 1], *[[0, 1, 0]] * 3]
    assert_array_equal(train["label"], np.array(expected, np.int32)[values(data.splits["train"])])
    assert sorted(values(data.splits["test"])) == [8, 9]


@pytest.mark.parametrize(
    ("cells", "names", "told"),
    [
        (["a b", "c"], ("a", "b", "c"), "'a b'"),
        (["left lung;heart", "heart"], ("heart", "left lung"), "'left lung'"),
        (["a|b c", "a"], ("a", "b c"), "'|'"),
        (['"a,b"', "a"], ("a", "b"), "','"),
        (["a;b|c", "a"], ("a", "b|c"), "'b|c'"),
        (["a;b", "a"], ("a", "b"), None),
    ],
)
def test_what_separates_classes(tmp_path, cells, names, told):
    images(tmp_path)
    path = table(tmp_path, "path,labels", [f"{i}.png,{cells[i % 2]}" for i in range(10)])
    data = open_dataset(f"csv:{path}", reads={"image": "image", "label": "classes"})
    assert data.features["label"].names == names
    said = [remark for remark in data.remarks if "'labels'" in remark]
    assert [told in remark for remark in said] == ([] if told is None else [True])


@pytest.mark.parametrize(
    ("header", "separator", "told"),
    [
        ("path,label,split", ";", "semicolons"),
        ("path,label,split", "\t", "tabs"),
        ("Path,LABEL,Split", ",", "'LABEL'"),
        ("filename,label,split", ",", "'filename'"),
        ("path, label ,split", ",", "'TEST'"),
    ],
)
def test_tables_as_others_write_them(tmp_path, header, separator, told):
    images(tmp_path)
    splits = ["train"] * 6 + ["Training", "TEST", "test", "Test"]
    rows = [f"{i}.png,{'cat' if i % 2 else 'dog'},{splits[i]}," for i in range(10)]
    path = table(tmp_path, header.replace(",", separator), [row.replace(",", separator) for row in rows])
    data = open_dataset(f"csv:{path}")
    assert data.features["label"].names == ("cat", "dog")
    assert (sorted(values(data.splits["train"])), sorted(values(data.splits["test"]))) == ([*range(7)], [7, 8, 9])
    assert any(told in remark for remark in data.remarks)


def test_slips_in_labels_are_told(tmp_path):
    images(tmp_path)
    cells = ["bars", "BARS", "nan", "rows", "rows"]
    path = table(tmp_path, "path,label,labels", [f"{i}.png,{cells[i % 5]},x" for i in range(10)])
    remarks = open_dataset(f"csv:{path}").remarks
    for named in ("'BARS' and 'bars'", "'nan'", "'labels'"):
        assert any(named in remark for remark in remarks)


def test_one_of_several_numbers_is_named(tmp_path):
    images(tmp_path)
    path = table(tmp_path, "path,height,width", [f"{i}.png,{i},{i}" for i in range(10)])
    with pytest.raises(UserError, match="height, width"):
        open_dataset(f"csv:{path}", reads={"image": "image", "age": "number"})


def test_numbers(tmp_path):
    images(tmp_path)
    path = table(tmp_path, "path,age,name", [f"{i}.png,{i / 2},x" for i in range(10)])
    data = open_dataset(f"csv:{path}", reads={"image": "image", "age": "number"})
    assert data.features["age"] == Feature("number", (), "float32")
    assert_array_equal(data.splits["train"].load()["age"], values(data.splits["train"]) / 2)
    with pytest.raises(UserError, match=r"line 2 .*'x'.*'name'"):
        open_dataset(f"csv:{path}", reads={"image": "image", "age": "number", "name": "number"})


def test_a_cell_that_is_no_number_is_named_with_its_line(tmp_path):
    images(tmp_path, 3)
    path = table(tmp_path, "path,count", ["0.png,1", "1.png,x", "2.png,3"])
    with pytest.raises(UserError, match=r"line 3 .*'x'.*'count'"):
        open_dataset(f"csv:{path}", reads={"image": "image", "count": "number"})
    assert open_dataset(f"csv:{path}", reads={"image": "image"}).features.keys() == {"image"}


def test_class_numbers_are_in_their_own_order(tmp_path):
    images(tmp_path)
    path = table(tmp_path, "path,label", [f"{i}.png,{[2, 10][i % 2]}" for i in range(10)])
    assert open_dataset(f"csv:{path}").features["label"].names == ("2", "10")


def test_what_spreadsheets_write(tmp_path):
    images(tmp_path)
    path = tmp_path / "set.csv"
    rows = "".join(f'"{i}.png","cat, {i % 2}"\r\n' for i in range(10))
    path.write_bytes(b"\xef\xbb\xbf" + f"path,label\r\n{rows}".encode())
    assert open_dataset(f"csv:{path}").features["label"].names == ("cat, 0", "cat, 1")


def test_a_label_that_changes_makes_another_set(tmp_path):
    images(tmp_path)
    rows = [f"{i}.png,{'cat' if i % 2 else 'dog'}" for i in range(10)]
    first = open_dataset(f"csv:{table(tmp_path, 'path,label', rows)}").fingerprint
    assert open_dataset(f"csv:{tmp_path / 'set.csv'}").fingerprint == first
    rows[0], rows[1] = "0.png,cat", "1.png,dog"
    assert open_dataset(f"csv:{table(tmp_path, 'path,label', rows)}").fingerprint != first


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [
        ("place,label", ["0.png,a"], "no column 'path', only place, label"),
        ("file,image,label", ["0.png,0.png,a"], "file or image by 'path'"),
        ("path,label,label", ["0.png,a,b"], "two columns called 'label'"),
        ("path,label", ["0.png,a", "1.png,bars, wide"], "line 3 .* 3 cells"),
        ("path,label", [], "no rows"),
        ("path,label", ["0.png,a", "77.png,b"], "line 3 .*'77.png', which does not exist"),
        ("path,label", ["0.png,a", "1.png,"], "line 3 .*no label"),
        ("path,label", ["0.png,a", "1.png"], "line 3 .*no label"),
        ("path,label", ["0.png,a", "1.png,a"], "only one class, 'a'"),
        ("path,label,split", ["0.png,a,train", "1.png,b,test"], "no readable training image of class 'b'"),
        ("path,label,split", ["0.png,a,train", "1.png,b,"], "line 3 .*no split"),
        ("path,labels", ["0.png,a"], "no class for 'label', only 'labels' .classes., 'path' .image."),
    ],
)
def test_what_is_amiss_is_named(tmp_path, header, rows, said):
    images(tmp_path)
    with pytest.raises(UserError, match=said):
        open_dataset(f"csv:{table(tmp_path, header, rows)}")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv"):
        open_dataset(f"csv:{tmp_path / 'none.csv'}")
    (tmp_path / "image.csv").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(UserError, match=r"image\.csv"):
        open_dataset(f"csv:{tmp_path / 'image.csv'}")


def test_rows_of_one_image_keep_their_splits_and_labels(tmp_path):
    """A run knows each of several rows that name an image; a person is told of them."""
    images(tmp_path)
    rows = [f"{i}.png,{'cat' if i % 2 else 'dog'}" for i in range(10)]
    again = [f"{i}.png,{'cat' if i % 3 else 'dog'}" for i in range(10)]
    path = table(tmp_path, "path,label", rows + again)
    data = open_dataset(f"csv:{path}")
    different = sum(one != other for one, other in zip(rows, again, strict=True))
    assert len(set(data.files)) == 20
    assert any("10 of the 10 images" in remark and f"{different} of them" in remark for remark in data.remarks)

    splits = [name for name, size in data.sizes.items() for _ in range(size)]
    known = Known(data.features, Parts(zip(data.files, data.digests, splits, strict=True)))
    opened = open_dataset(f"csv:{path}", known=known)
    assert opened.fingerprint == data.fingerprint
    for name, split in opened.splits.items():
        assert labels(split) == labels(data.splits[name])
