"""Persons of images: parts of sources, and where files lead to persons."""

import codecs

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpmix.data.person_rule import person_rule
from dpmix.data.persons import Persons
from dpmix.data.source import Subset, TensorSource, persons_of, unit_labels
from dpmix.errors import DpmixError

NAMES = ("train/a/1.png", "train/a/2.png", "test/b/3.png")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=20), st.data())
def test_every_image_has_one_person_and_a_part_keeps_it(names, data):
    persons = Persons.named(names)
    places = torch.cat([persons.images(person) for person in range(len(persons))])
    assert sorted(places.tolist()) == list(range(len(names)))
    assert [persons.names[owner] for owner in persons.owner.tolist()] == names
    kept = data.draw(st.lists(st.sampled_from(range(len(names))), min_size=1, unique=True))
    part = persons.of_images(torch.tensor(kept))
    assert [part.names[owner] for owner in part.owner.tolist()] == [names[i] for i in kept]
    assert (part.counts > 0).all()


def test_a_subset_has_the_persons_of_its_images():
    pixels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    persons = Persons.named(["x", "y", "x", "z"])
    whole = TensorSource(pixels, torch.tensor([0, 1, 1, 0]), ("a", "b"), persons=persons)
    part = Subset.of(whole, torch.tensor([1, 2]))
    assert persons_of(part).names == ("x", "y")
    assert unit_labels(whole, "person").tolist() == [0, 1, 0]
    assert unit_labels(part, "image").tolist() == [1, 1]
    with pytest.raises(DpmixError, match="have no persons; give --persons"):
        persons_of(TensorSource(pixels, torch.zeros(4).long(), ("a", "b")))


def listed(tmp_path, text, encoding="utf-8", place="persons.csv"):
    root = tmp_path / "data"
    root.mkdir(exist_ok=True)
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return person_rule(path, None, root)


@pytest.mark.parametrize(("text", "place"), [
    ("file,person\n{0},x\n{1},x\n{2},y\n", "persons.csv"),
    ("person,file,site\r\nx,{0},1\r\nx,{1},1\r\ny,{2},2\r\n", "persons.csv"),
    ('file,person\n"./{0}","x"\n"{1}",x\n"{2}",y\n', "persons.csv"),
    ("file,person\ndata/{0},x\ndata/{1},x\ndata/{2},y\n", "persons.csv"),
    ("file,person\n../data/{0},x\n../data/{1},x\n../data/{2},y\n", "lists/persons.csv"),
    ("file,person\n1.png,x\n2.png,x\n3.png,y\n", "persons.csv"),
    ("file,person\ntrain\\a\\1.png,x\ntrain\\a\\2.png,x\ntest\\b\\3.png,y\n", "persons.csv"),
])  # fmt: skip
def test_lists_as_people_write_them(tmp_path, text, place):
    rule = listed(tmp_path, text.format(*NAMES), place=place)
    assert rule.of(NAMES) == ("x", "x", "y")


def test_a_list_from_excel_and_unicode(tmp_path):
    text = codecs.BOM_UTF8.decode() + "file,person\nä/1.png,Zoë\n"
    # The folder's name is stored in the other form of Unicode.
    assert listed(tmp_path, text).of(("a\u0308/1.png",)) == ("Zoë",)


@pytest.mark.parametrize(("text", "message"), [
    ("", "has the columns of nothing; expected file and person"),
    ("path,patient\na,b\n", "has the columns path, patient; expected file and person"),
    ("file,person\n", "lists no file"),
    ("file,person\n1.png,\n2.png,x\n", "1 file.s. have an empty person: '1.png'"),
    ("file,person\n1.png,x\n1.png,y\n", "under two persons: 1.png is 'x' and, in line 3, 'y'"),
    ("file,person\n1.png,x\n", "gives no person for 2 image.s.: 'train/a/2.png', 'test/b/3.png'"),
])  # fmt: skip
def test_lists_that_do_not_give_one_person_for_each_image(tmp_path, text, message):
    with pytest.raises(DpmixError, match=message):
        listed(tmp_path, text).of(NAMES)


def test_bare_names_that_two_files_have_are_refused(tmp_path):
    rule = listed(tmp_path, "file,person\n1.png,x\n")
    with pytest.raises(DpmixError, match=r"2 image.s. share a name with another: 'a/1.png', 'b/"):
        rule.of(("a/1.png", "b/1.png"))
    paths = listed(tmp_path, "file,person\na/1.png,x\nb/1.png,y\n")
    assert paths.of(("a/1.png", "b/1.png")) == ("x", "y")


def test_lists_that_cannot_be_read(tmp_path):
    with pytest.raises(DpmixError, match="is no CSV file in UTF-8"):
        listed(tmp_path, "file,person\nä,x\n", encoding="latin-1")
    with pytest.raises(DpmixError, match=r"cannot be read .No such file"):
        person_rule(tmp_path / "none.csv", None, tmp_path)


def test_a_list_inside_the_data_folder_names_its_own_files(tmp_path):
    root = tmp_path / "data"
    for name in ("a/1.png", "b/1.png", "b/2.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "a" / "list.csv").write_text("file,person\n1.png,x\n2.png,z\n../b/1.png,y\n")
    rule = person_rule(root / "a" / "list.csv", None, root)
    assert rule.of(("a/1.png", "b/1.png")) == ("x", "y")
    with pytest.raises(DpmixError, match="gives no person for 1 image"):
        rule.of(("b/2.png",))  # the list means a file of its own folder
    (root / "all.csv").write_text(f"file,person\n{root}/a/1.png,x\nb/1.png,y\n2.png,z\n")
    rule = person_rule(root / "all.csv", None, root)
    assert rule.of(("a/1.png", "b/1.png", "b/2.png")) == ("x", "y", "z")


def test_a_path_and_a_bare_name_must_not_name_two_persons(tmp_path):
    rule = listed(tmp_path, "file,person\ntrain/a/1.png,x\n1.png,y\n")
    with pytest.raises(DpmixError, match=r"lists 1 file.s. under two persons, once by path"):
        rule.of(("train/a/1.png",))


@pytest.mark.parametrize("file", ["a\0b.png"])
def test_a_listed_name_that_is_no_path_is_refused(tmp_path, file):
    with pytest.raises(DpmixError, match="which is no path"):
        listed(tmp_path, f"file,person\n{file},x\n")


def test_a_pattern_with_alternatives_and_unicode_gives_one_name(tmp_path):
    rule = person_rule(None, r"patient(\d+)|/p(\d+)", tmp_path)
    assert rule.of(("a/patient17_1.png", "b/p17_2.png")) == ("17", "17")
    rule = person_rule(None, r"([^/]+)_\d", tmp_path)
    assert len({*rule.of(("a/Jos\u00e9_1.png", "b/Jose\u0301_2.png"))}) == 1
    with pytest.raises(DpmixError, match="gives no person for 1 image"):
        person_rule(None, "(foo)?(bar)?", tmp_path).of(("x.png",))


def test_a_pattern_finds_the_person_in_the_path(tmp_path):
    names = ("train/a/patient7_1.png", "train/b/patient7_2.png", "train/a/patient12_1.png")
    assert person_rule(None, r"patient(\d+)", tmp_path).of(names) == ("7", "7", "12")
    assert person_rule(None, r"patient\d+", tmp_path).of(names)[0] == "patient7"
    with pytest.raises(DpmixError, match="gives no person for 3 image"):
        person_rule(None, r"person(\d+)", tmp_path).of(names)
    with pytest.raises(DpmixError, match="is no regular expression"):
        person_rule(None, "(", tmp_path)
    with pytest.raises(DpmixError, match="both given"):
        person_rule(tmp_path / "x.csv", "x", tmp_path)
    assert person_rule(None, None, tmp_path) is None
