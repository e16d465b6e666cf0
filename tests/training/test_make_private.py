"""A loop as it is written for Opacus, with `trainer.step()` in place of batch, loss and step."""

import math
import re
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset
from torchvision.transforms.functional import to_pil_image

import dpmix
from dpmix.data import load_splits, normalization
from dpmix.errors import DpmixError
from dpmix.privacy.repeats import epsilon_of_copies
from small_run import CLASSES, linear, plan, source


class Digits(Dataset):
    """Half of the built-in digits, as torchvision's MNIST gives them: PIL images and ints."""

    def __init__(self, side):
        digits = getattr(load_splits("mnist5k"), side)
        self.pixels, self.targets = digits.pixels[::2], digits.labels[::2]

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        return to_pil_image(self.pixels[index]), int(self.targets[index])


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


def test_the_loop_of_an_opacus_user_trains_a_model():
    train, test = Digits("train"), Digits("test")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    steps_per_epoch, epochs = 4, 5
    the_plan = dpmix.PrivacyPlan.calibrate(
        n=len(train), expected_batch_size=len(train) / steps_per_epoch,
        steps=epochs * steps_per_epoch, epsilon=10, delta=1e-4,
    )  # fmt: skip
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=the_plan.steps)
    trainer = dpmix.make_private(
        model, optimizer, train, plan=the_plan, seed=0,
        views=dpmix.ViewSpec("mix-self", k_base=2, k_self=1, flip=False),
    )  # fmt: skip
    for _ in range(epochs):
        for _ in range(steps_per_epoch):
            trainer.step()
            scheduler.step()
    assert 9.9 < the_plan.epsilon_after(trainer.steps_done) <= 10
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    model.eval()
    right = sum(
        int((model(normalization("half", 1)(images)).argmax(1) == labels).sum())
        for images, labels in DataLoader(TensorDataset(test.pixels, test.targets), batch_size=50)
    )
    assert right / len(test) > 0.4  # chance is 0.1


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


def test_a_loss_of_ones_own_is_used():
    def smoothed(logits, labels):
        return nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=0.5)

    silent = plan(noise_multiplier=1e-9, max_grad_norm=1e3, steps=1)
    plain, smooth = linear(), linear()
    private(silent, model=plain).step()
    private(silent, model=smooth, loss=smoothed).step()
    inputs, labels = normalization("half", 1)(source().pixels), source().labels
    expected = linear()
    smoothed(expected(inputs), nn.functional.one_hot(labels, 3).float()).sum().backward()
    with torch.no_grad():
        for parameter in expected.parameters():
            parameter -= parameter.grad / silent.denominator
    assert torch.allclose(weights(smooth), weights(expected), atol=1e-5)
    assert not torch.allclose(weights(plain), weights(smooth), atol=1e-3)


def test_a_loss_that_hides_the_views_is_refused_before_anything_is_released():
    model = linear()
    trainer = private(plan(), model=model, loss=nn.CrossEntropyLoss())
    with pytest.raises(DpmixError, match="loss"):
        trainer.step()
    assert trainer.steps_done == 0 and torch.equal(weights(model), weights(linear()))


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


def test_an_empty_batch_is_a_step():
    trainer = private(plan(sampling_rate=1e-9))
    assert trainer.step().drawn == 0 and trainer.steps_done == 1
    assert not torch.equal(weights(trainer.model), weights(linear()))


def test_the_models_answer_says_how_many_classes_there_are():
    """The labels do not: a class that nobody has is a class, and one more is refused."""
    few = source()
    few = type(few)(few.pixels, few.labels.clamp(max=1), CLASSES)
    assert private(plan(), data=few).views.num_classes == 3
    small = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    with pytest.raises(DpmixError, match=r"label 2 is out of range; expected 0..1"):
        private(plan(), model=small)


def test_asking_the_model_leaves_no_trace():
    model = nn.Sequential(nn.Dropout(0.5), *linear())
    model.train()
    state = torch.get_rng_state()
    trainer = private(plan(), model=model)
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert trainer.steps_done == 0 and torch.equal(weights(model), weights(linear()))


MIXING = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3))


@pytest.mark.parametrize(("model", "settings", "said"), [
    (None, {"run_plan": plan(n=13)}, "the plan is for 13 training examples and the dataset has 12"),
    (MIXING, {}, "BatchNorm2d.*GroupNorm"),
    (nn.Flatten(), {"optimizer": torch.optim.SGD(linear().parameters())}, "no trainable parameter"),
    (None, {"views": dpmix.ViewSpec("mix-diff", crop_padding=1)}, "mix-diff needs public images"),
    (None, {"normalization": "imagenet"}, "is for 3 channels and the images have 1"),
    (None, {"views": dpmix.ViewSpec("microbatch-mixup", crop_padding=1)}, "sensitivity 2C"),
    (nn.Linear(6, 3), {}, r"returned \[1, 1, 6, 3\]: expected logits"),
])  # fmt: skip
def test_what_can_not_be_made_private_is_refused(model, settings, said):
    with pytest.raises(DpmixError, match=said):
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


def test_views_by_name_alone_are_told_what_is_expected(unchecked):
    with pytest.raises(DpmixError, match=r"views is 'mix-self'; expected a dpmix.ViewSpec"):
        private(plan(), views="mix-self")


def test_an_infinite_norm_is_no_private_plan():
    with pytest.raises(DpmixError, match="max_grad_norm is infinite"):
        private(plan(max_grad_norm=math.inf))


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
