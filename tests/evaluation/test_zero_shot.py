"""Zero-shot classification on vectors whose result is known, labels and class lists."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from drrho_clip.data.manifest import Manifest, dataset_id
from drrho_clip.errors import ConfigError
from drrho_clip.evaluation.classes import DEFAULT_TEMPLATES, ClassList, class_list, classes_id
from drrho_clip.evaluation.zero_shot import Labels, classify, label


def named(count: int) -> ClassList:
    return ClassList(classnames=tuple(f"class {number}" for number in range(count)))


def test_three_classes_of_two_images():
    images = torch.eye(3)[[0, 0, 1, 2, 1, 1]]  # the second class is right once of two, the third never
    found = classify(images, torch.eye(3), Labels(list(range(6)), [0, 0, 1, 1, 2, 2], {}), named(3))
    assert {k: score.value for k, score in found.top.items()} == {1: 0.5}  # no top 5 of three
    assert found.top[1].standard_error == pytest.approx(math.sqrt(0.25 / 6))
    assert {name: (c.samples, c.accuracy) for name, c in found.per_class.items()} == {
        "class 0": (2, 1.0),
        "class 1": (2, 0.5),
        "class 2": (2, 0.0),
    }
    assert found.mean_per_class == pytest.approx(0.5)
    assert (found.classes, found.samples) == (3, 6)


def test_mean_per_class_weighs_classes_not_images():
    images = torch.eye(2)[[0, 0, 0, 0]]
    found = classify(images, torch.eye(2), Labels([0, 1, 2, 3], [0, 0, 0, 1], {}), named(2))
    assert (found.top[1].value, found.mean_per_class) == (0.75, 0.5)


def test_top_5_of_six_classes():
    classifier = torch.eye(6)
    image = torch.tensor([[0.6, 0.5, 0.4, 0.3, 0.2, 0.1]])
    at = {number: classify(image, classifier, Labels([0], [number], {}), named(6)).top for number in (0, 4, 5)}
    assert {n: (top[1].value, top[5].value) for n, top in at.items()} == {0: (1, 1), 4: (0, 1), 5: (0, 0)}


def test_a_collapsed_model_scores_nothing():
    found = classify(torch.ones(4, 3), torch.ones(4, 3), Labels([0, 1, 2, 3], [0, 1, 2, 3], {}), named(4))
    assert (found.top[1].value, found.mean_per_class) == (0, 0)


def test_labels_by_name_and_by_number_and_what_is_left_out():
    found = label(["cat", "dog", None, "", "cow", 1, "0", "7"], ["cat", "dog"])
    assert (found.rows, found.numbers) == ([0, 1, 5, 6], [0, 1, 1, 0])
    assert found.skipped == {"without a class": 2, "class not in the list": 2}


def manifest(**changes: object) -> Manifest:
    return Manifest(name="d", version=1, id=dataset_id(()), shards=(), **changes)


def test_classes_of_the_dataset():
    assert class_list("dataset", manifest()) == "dataset 'd' has no class names"
    own = class_list("dataset", manifest(classnames=("cat", "dog"), templates=("a {} here",)))
    assert own == ClassList(classnames=("cat", "dog"), templates=("a {} here",))
    assert class_list("dataset", manifest(classnames=("cat",))).templates == DEFAULT_TEMPLATES
    assert class_list("none", manifest(classnames=("cat",))) == "not asked for"


def test_classes_of_imagenet():
    found = class_list("imagenet", manifest())
    assert (len(found.classnames), len(found.templates)) == (1000, 80)
    assert "a bad photo of a {}." in found.templates
    twins = classify(torch.eye(1000)[[657, 744]], torch.eye(1000), Labels([0, 1], [657, 744], {}), found)
    assert set(twins.per_class) == {"missile (657)", f"{found.classnames[744]} (744)"}


def test_classes_of_a_file(tmp_path: Path):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({"classnames": ["cat", "dog"], "templates": ["the {}"]}))
    before = classes_id(str(path), manifest())
    assert class_list(str(path), manifest()) == ClassList(classnames=("cat", "dog"), templates=("the {}",))
    path.write_text(json.dumps(["cat", "cow"]))
    assert class_list(str(path), manifest()) == ClassList(classnames=("cat", "cow"))
    assert classes_id(str(path), manifest()) != before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no such file of class names"),
        ("{", "is no JSON"),
        ('{"classnames": []}', "classnames"),
        ('{"classnames": ["a", "a"]}', "a given more than once"),
        ('{"classnames": ["a", " "]}', "name 2 is blank"),
        ('{"classnames": ["a"], "templates": ["a photo"]}', "'a photo' needs {} once"),
        ('{"classnames": ["a"], "templates": ["{0} {}"]}', "no other brace"),
        ('{"classnames": ["a"], "template": ["{}"]}', "unknown key 'template'.*templates"),
        ('{"names": ["a"]}', "unknown key 'names'"),
        ("3", "classnames"),
    ],
)
def test_files_that_are_no_class_list(tmp_path: Path, content: str | None, message: str):
    path = tmp_path / "classes.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        class_list(str(path), manifest())
