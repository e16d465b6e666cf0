"""A loop as it is written for Opacus, with `trainer.step()` in place of batch, loss and step."""

import math
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

import dpmix
from dpmix.data import normalization
from dpmix.errors import DpmixError
from dpmix.privacy.repeats import epsilon_of_copies
from small_run import CLASSES, linear, plan, source


def pairs(data):
    return TensorDataset(data.pixels, data.labels)


def private(run_plan, *, model=None, data=None, optimizer=None, **settings):
    model = model or linear()
    settings = {"views": dpmix.ViewSpec("none"), "seed": 3} | settings
    return dpmix.make_private(
        model,
        optimizer or torch.optim.SGD(model.parameters(), lr=1.0),
        pairs(data or source()),
        plan=run_plan,
        **settings,
    )


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_it_is_the_trainer_that_the_parts_would_make():
    one, two = linear(), linear()
    data = source()
    dpmix.PrivateTrainer(
        one, data, plan=plan(), seed=3, optimizer=torch.optim.SGD(one.parameters(), lr=1.0),
        views=dpmix.ViewBuilder(dpmix.ViewSpec("none"), len(CLASSES), normalization("half", 1)),
    ).step()  # fmt: skip
    private(plan(), model=two, data=data).step()
    assert torch.equal(weights(one), weights(two))
    three = linear()
    optimizer = torch.optim.SGD(three.parameters(), lr=1.0)
    dpmix.make_private(
        three, optimizer, data, plan=plan(), views=dpmix.ViewSpec("none"), seed=3
    ).step()
    assert torch.equal(weights(one), weights(three))


def test_without_noise_a_step_on_all_examples_is_that_of_opacus(unchecked):
    """The same clipped sum over the same denominator, by another library's hooks."""
    from opacus import PrivacyEngine

    data = source()
    ours, theirs = linear(), linear()
    silent = plan(noise_multiplier=1e-9, denominator=float(len(data)), steps=1)
    private(silent, model=ours, data=data).step()

    inputs = normalization("half", 1)(data.pixels)
    loader = DataLoader(TensorDataset(inputs, data.labels), batch_size=len(data))
    module, optimizer, loader = PrivacyEngine().make_private(
        module=theirs, optimizer=torch.optim.SGD(theirs.parameters(), lr=1.0), data_loader=loader,
        noise_multiplier=0.0, max_grad_norm=silent.max_grad_norm, poisson_sampling=False,
    )  # fmt: skip
    for images, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(images), labels).backward()
        optimizer.step()
    assert (weights(ours) - weights(linear())).norm() > 0.01
    assert torch.allclose(weights(ours), weights(theirs), atol=1e-6)


def test_a_loop_goes_on_from_state_dicts():
    def parts():
        model = linear()
        return model, torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)

    whole, optimizer = parts()
    trainer = private(plan(), model=whole, optimizer=optimizer)
    for _ in range(4):
        trainer.step()

    first, optimizer = parts()
    trainer = private(plan(), model=first, optimizer=optimizer)
    trainer.step()
    saved = (first.state_dict(), optimizer.state_dict(), trainer.state())

    second, optimizer = parts()
    second.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    trainer = private(plan(), model=second, optimizer=optimizer)
    trainer.resume(saved[2])
    while trainer.steps_done < plan().steps:
        trainer.step()
    assert torch.equal(weights(whole), weights(second))
    with pytest.raises(DpmixError, match="all 4 steps of the plan are done"):
        trainer.step()


def test_the_models_answer_says_how_many_classes_there_are():
    """The labels do not: a class that nobody has is a class."""
    few = source()
    few = type(few)(few.pixels, few.labels.clamp(max=1), CLASSES)
    assert private(plan(), data=few).views.num_classes == 3


MIXING = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3))


@pytest.mark.parametrize(("model", "settings", "expected"), [
    (None, {"run_plan": plan(n=13)}, "the plan is for 13 training images and the dataset has 12"),
    (MIXING, {}, "BatchNorm2d.*GroupNorm"),
    (None, {"normalization": "imagenet"}, "is for 3 channels and the images have 1"),
    (None, {"views": dpmix.ViewSpec("microbatch-mixup", crop_padding=1)}, "sensitivity 2C"),
    (None, {"views": "mix-self"}, "views is 'mix-self'; expected a dpmix.ViewSpec"),
    (nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), {}, r"label 2 is out of range; expected 0..1"),
    (nn.Linear(6, 3), {}, r"returned \[1, 1, 6, 3\]: expected logits"),
])  # fmt: skip
@pytest.mark.usefixtures("unchecked")
def test_what_can_not_be_made_private_is_refused(model, settings, expected):
    with pytest.raises(DpmixError, match=expected):
        private(**({"run_plan": plan(), "model": model} | settings))


class Cropped(TensorDataset):
    """Its transform is random, so that one example differs whenever it is read."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return torch.randint(0, 256, image.shape, dtype=torch.uint8), label


def repeated():
    """Datasets of twelve examples or more in which one occurs three times."""
    data, examples = source(), pairs(source())
    cropped = Cropped(data.pixels, data.labels)
    again = [*range(12), 4, 4]
    equal = type(data)(data.pixels[again], data.labels[again].roll(1), CLASSES)
    return {
        "pixels": pairs(equal),
        "a source of ours": equal,
        "a subset": Subset(examples, again),
        "a concatenation": ConcatDataset([examples, Subset(examples, [4]), Subset(examples, [4])]),
        "a random transform": Subset(cropped, again),
        "nested": ConcatDataset([cropped, Subset(ConcatDataset([cropped, cropped]), [16, -8])]),
    }


@pytest.mark.parametrize("name", repeated())
def test_repeated_images_are_refused_or_their_epsilon_is_warned_of(name):
    dataset, model = repeated()[name], linear()

    def made(**settings):
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        return dpmix.make_private(
            model, optimizer, dataset, plan=plan(**settings.pop("plan", {})),
            views=dpmix.ViewSpec("none"), **settings,
        )  # fmt: skip

    larger = f"{epsilon_of_copies(plan(), 3, 4):.3f}"
    with pytest.raises(DpmixError, match=rf"1 image .* 3 times \(image 4, .* epsilon is {larger}"):
        made()
    with pytest.warns(UserWarning, match=rf"occurs 3 times .* epsilon is {larger}"):
        made(allow_repeats=True)
    nothing_claimed = {"noise_multiplier": 0.0, "max_grad_norm": math.inf}
    assert made(plan=nothing_claimed).step().drawn == len(dataset)


def test_an_example_of_another_dataset_is_no_repeat(recwarn):
    one, other = source(), source(seed=1)
    joined = ConcatDataset([Cropped(one.pixels, one.labels), Cropped(other.pixels, other.labels)])
    optimizer = torch.optim.SGD((model := linear()).parameters(), lr=1.0)
    dpmix.make_private(model, optimizer, joined, plan=plan(), views=dpmix.ViewSpec("none"))
    assert not [one for one in recwarn if "times" in str(one.message)]


PEOPLE = ["a", "b", "b", "c", "c", "c", "a", "d", "e", "e", "f", "g"]


def test_persons_are_the_unit_where_they_are_given():
    drawn = []
    run = private(plan(unit="person", n=7), persons=PEOPLE)
    assert run.views.spec.images_per_person == 8
    run.views.check_data(run.data)
    run._clip = lambda self, units, draws: (
        drawn.append(len(units)) or self.clipped_sum(units, draws)
    )
    run.step()
    assert drawn == [7]
    kinds = (int, float, torch.tensor, np.int64, lambda n: np.array([n]), str)
    numbers = [kinds[i % 6](ord(one)) for i, one in enumerate(PEOPLE)]
    assert len(private(plan(unit="person", n=7), persons=numbers).data.persons) == 7


def test_a_loop_goes_on_with_the_same_persons_alone():
    state = private(plan(unit="person"), persons=PEOPLE).state()
    private(plan(unit="person"), persons=PEOPLE).resume(state)
    with pytest.raises(DpmixError, match="belong to other persons than in the saved steps"):
        private(plan(unit="person"), persons=[*PEOPLE[1:], "a"]).resume(state)


@pytest.mark.parametrize(("changes", "persons", "expected"), [
    ({"unit": "person", "n": 12}, PEOPLE, "for 12 training persons and the dataset has 7"),
    ({"unit": "person"}, PEOPLE[:5], "persons is a list of 5 for 12 images"),
    ({"unit": "person"}, set(PEOPLE), "persons is a set of 7 for 12 images"),
    ({"unit": "person"}, dict.fromkeys(range(12)), "persons is a dict of 12 for 12 images"),
    ({"unit": "person"}, [*PEOPLE[:11], None], "the person of image 11 is None; expected a name"),
    ({"unit": "person"}, [*PEOPLE[:11], 0.5], "the person of image 11 is 0.5; expected a name"),
    ({"unit": "person"}, ["a"] * 12, "all images belong to one person"),
    ({}, PEOPLE, "have persons and the plan's unit of privacy is an image; give Pri"),
    ({"unit": "person"}, None, r"have no persons; give --persons .*persons="),
])  # fmt: skip
def test_persons_that_do_not_fit_are_refused(changes, persons, expected):
    with pytest.raises(DpmixError, match=expected):
        private(plan(**changes), persons=persons)


def test_an_image_of_two_persons_is_refused():
    data = source()
    data.pixels[1] = data.pixels[0]
    with pytest.raises(DpmixError, match="belong to two persons or more, such as image 0 and"):
        private(plan(unit="person"), data=data, persons=PEOPLE)
    private(plan(unit="person"), data=data, persons=["a", "a", *PEOPLE[2:]])


def test_the_code_of_the_docs_runs(capsys):
    page = (Path(__file__).parents[2] / "docs/from-opacus.md").read_text()
    begin, evaluation, repeats, weighted = re.findall(
        r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE
    )
    loop = textwrap.dedent(re.findall(r"    ```python\n(.*?)    ```", page, flags=re.DOTALL)[1])
    assert "dpmix.make_private" in loop
    fewer = loop.replace("steps=50", "steps=1").replace("batch_size=400", "batch_size=40")
    code = "\n".join([begin, fewer, evaluation, repeats, weighted])
    names = {}
    exec(compile(code, "from-opacus.md", "exec"), names)
    values = names["weighted"](torch.zeros(2, 2), torch.eye(2))  # one a view, by its weight
    assert values.tolist() == pytest.approx([0.15 * math.log(2), 0.0167 * math.log(2)])
    epsilon, right = map(float, re.findall(r"[\d.]+", capsys.readouterr().out))
    assert 2.9 < epsilon <= 3 and 0 <= right <= 1
