"""What bundles of strangers may not do."""

import json
import pickle
import stat
import warnings
import zipfile

import numpy as np
import pytest
import torch

from inspection_core.engine import Engine
from inspection_core.errors import ModelError
from inspection_core.models.bundle import components, config, expressions, files


def evaluate(text, refer=None):
    return expressions.evaluate(text, "entry", refer or {"a": 2, "b#c": [1, 2, 3], "name": "x"}.__getitem__)


# expression: value
ALLOWED = {
    "1 + 2 * 3 ** 2 // 4 % 5": 5,
    "-@a if @a > 1 and not False else 0": -2,
    "@b#c[1:] + [@a]": [2, 3, 2],
    "@b::c[-1]": 3,
    "'models/' + @name + '.pt'": "models/x.pt",
    "os.path.join('a', 'b')": "a/b",
    "[i * 2 for i in @b#c if i > 1]": [4, 6],
    "{k: v for k, v in zip(['x', 'y'], range(2))}": {"x": 0, "y": 1},
    "len(@b#c) == 3 and 1 < @a <= 2": True,
    "{'image': 1}['image']": 1,
    "list(range(3)) + [max(1, 2)]": [0, 1, 2, 2],
    "(lambda x, y: x + y)(1, 2)": 3,
    "str(torch.device('cpu'))": "cpu",
    "[96, 96] if @name in ('x',) else None": [96, 96],
}


@pytest.mark.parametrize(("text", "value"), ALLOWED.items())
def test_what_bundles_compute(text, value):
    assert evaluate(text) == value


def test_what_bundles_do_to_arrays():
    numbers = "lambda x: torch.where(x[[1]] > 0, 4, torch.where(x[[0]] > 0, 1, 0)).to(torch.uint8)"
    mask = evaluate(numbers)(torch.tensor([[[1, 0, 1]], [[0, 0, 1]]]))
    assert mask.tolist() == [[[1, 0, 4]]]
    assert evaluate("lambda x: x[1:].sum(dim=0, keepdim=True).argmax()")(torch.tensor([[0], [2]])).item() == 0


# expression: what the message names
REFUSED = {
    "__import__('os').system('true')": "the name '__import__'",
    "os.system('true')": "'os.system'",
    "os.path.os.system('true')": "'os.path.os.system'",
    "eval('1')": "the name 'eval'",
    "open('/etc/passwd').read()": "the name 'open'",
    "().__class__.__base__.__subclasses__()": ".__class__ of a tuple",
    "(lambda: 0).__globals__": ".__globals__ of a function",
    "torch.load('x')": "'torch.load'",
    "torch.hub.load('a', 'b')": "'torch.hub.load'",
    "torch.serialization.os.system('x')": "'torch.serialization.os.system'",
    "numpy.load('x', allow_pickle=True)": "'numpy.load'",
    "np.ctypeslib.ctypes": "'np.ctypeslib.ctypes'",
    "monai.utils.set_determinism(seed=1)": "'monai.utils.set_determinism'",
    "pickle.loads(b'')": "'pickle.loads'",
    "'{0.__class__}'.format(1)": ".format of a str",
    "f'{1:>9999999999}'": "Python's JoinedStr",
    "'%9999999999d' % 1": "% on text",
    "[0] * 10 ** 9": "more than 1000000 items",
    "'a' * 10 ** 9": "more than 1000000 items",
    "range(10 ** 9)": "more than 1000000 items",
    "9 ** 9 ** 9": "a power beyond 1024",
    "[0 for i in range(10 ** 6)]": "a loop of more than 10000 turns",
    "(x := 1)": "Python's NamedExpr",
    "torch.tensor(1).numpy().tofile('x')": ".numpy of a Tensor",
    "int.from_bytes": "'int.from_bytes'",
    "dict(**{'a': 1})": "** in a call",
    "1 << 10 ** 6": "Python's LShift",
    "await x": "Python's Await",
}


@pytest.mark.parametrize(("text", "named"), REFUSED.items())
def test_what_bundles_may_not_compute(text, named):
    with pytest.raises(ModelError) as caught:
        evaluate(text)
    assert str(caught.value) == (
        f"entry uses {named}, which is not among what bundles may use. Read the bundle; if you trust who made it, use "
        "--trust-bundle."
    )


FAILING = {
    "1 +": r"entry is no expression: '1 \+'",
    "import os": "entry is no expression",
    "1 / 0": "entry cannot be evaluated: division by zero",
    "(lambda f: f(f))(lambda f: f(f))": "entry is nested too deeply|entry cannot be evaluated",
    "@b#c[7]": "entry cannot be evaluated: list index out of range",
    "1" + "+1" * 6_000: "an expression has at most 10000 letters. Got 12001",
}


@pytest.mark.parametrize(("text", "message"), FAILING.items(), ids=range(len(FAILING)))
def test_expressions_that_fail(text, message):
    with pytest.raises(ModelError, match=message):
        evaluate(text)


def safe(data):
    return config.SafeConfig(data, "inference.json", {"device": torch.device("cpu")}, {})


BUILT = {"UNet": "monai.networks.nets.unet", "monai.networks.nets.unet.UNet": "monai.networks.nets.unet",
         "Compose": "monai.transforms.compose", "Spacingd": "monai.transforms.spatial.dictionary",
         "SlidingWindowInferer": "monai.inferers.inferer", "torch.nn.Conv3d": "torch.nn.modules.conv"}  # fmt: skip


@pytest.mark.parametrize(("target", "module"), BUILT.items())
def test_what_bundles_build(target, module):
    assert components.find(target, "entry").__module__ == module


# What would run text, import by name, ask a network, or write files.
BAD_TARGETS = [
    "os.system", "subprocess.Popen", "builtins.eval", "builtins.open", "torch.load", "torch.hub.load",
    "torch.nn.Module", "torch.jit.load", "monai.bundle.run", "monai.bundle.ConfigParser", "monai.utils.optional_import",
    "monai.transforms.LoadImaged.x", "monai.data.CacheDataset", "monai.transforms.TorchVisiond", "TorchIOd", "CuCIMd",
    "RandFlipd", "monai.networks.nets.TorchVisionFCModel", "monai.networks.nets.MultiModal", "scripts.networks.Net",
    "monai.networks.nets.optional_import", "monai.transforms.utils.allow_missing_keys_mode", "evil.UNet", "Compose.x",
    "CheckpointLoader", "WriteFileMappingd", "SaveClassificationd",
]  # fmt: skip


@pytest.mark.parametrize("target", BAD_TARGETS)
def test_what_bundles_may_not_build(target):
    with pytest.raises(ModelError, match=r"entry builds .*, which is not among what bundles may build.*--trust-bundle"):
        safe({"entry": {"_target_": target}}).get("entry")


def test_every_component_that_is_listed_is_there():
    import monai.inferers
    import monai.networks.nets
    import monai.transforms

    # Versions of MONAI differ by a few networks.
    missing = [n for n in components.NETWORKS if not hasattr(monai.networks.nets, n)]
    missing += [n for n in components.INFERERS if not hasattr(monai.inferers, n)]
    missing += [n for n in components.TRANSFORMS
                if not hasattr(monai.transforms, n) and not hasattr(monai.transforms, n + "d")]  # fmt: skip
    missing += [n for n in components.LAYERS if not hasattr(torch.nn, n)]
    assert missing == []


def test_the_grammar():
    found = safe(
        {
            "n": 2,
            "sizes": "$[@n, @n * 2]",
            "copy": "%sizes",
            "nested": {"a": ["@n", {"b": "@sizes#1"}]},
            "picked": "@nested#a#1",
            "layer": {"_target_": "torch.nn.Conv2d", "_desc_": "x", "in_channels": 1, "out_channels": "@n",
                      "kernel_size": 1},
            "later": {"_target_": "torch.nn.ReLU", "_mode_": "callable"},
            "off": {"_target_": "os.system", "_disabled_": True, "command": "true"},
            "list": [{"_target_": "SaveImaged", "keys": "x"}, {"_target_": "torch.nn.ReLU"}],
        }
    )  # fmt: skip
    assert found.get("copy") == found.get("sizes") == [2, 4]
    assert found.get("nested#a#0") == 2
    assert found.get("layer").out_channels == 2
    assert found.get("layer") is found.get("layer")
    assert isinstance(found.get("later")(), torch.nn.ReLU)
    assert found.get("off") is None
    assert len(found.get("list")) == 1
    assert found.get("nothing", 7) == 7


WRONG = {
    "circle": ({"entry": "@b", "b": "$@entry + 1"}, "refer to each other in a circle: entry -> b"),
    "nothing there": ({"entry": "@b"}, "refers to 'b', which it does not hold"),
    "relative": ({"entry": "@#x"}, "Relative ones are not read"),
    "elsewhere": ({"entry": "%/etc/passwd"}, "copies from elsewhere"),
    "debugger": ({"entry": {"_target_": "torch.nn.ReLU", "_mode_": "debug"}}, "mode 'debug', which is not run"),
    "no name": ({"entry": {"_target_": 3}}, "builds int, where a name was expected"),
    "arguments": ({"entry": {"_target_": "UNet"}}, "UNet cannot be made: .*spatial_dims"),
    "deep": ({"entry": json.loads("[" * 90 + "]" * 90)}, "nested too deeply"),
}


@pytest.mark.parametrize(("data", "message"), WRONG.values(), ids=WRONG)
def test_configurations_that_make_no_sense(data, message):
    with pytest.raises(ModelError, match=message):
        safe(data).get("entry")


def test_no_network_is_downloaded():
    node = {"_target_": "FlexibleUNet", "in_channels": 3, "out_channels": 2, "backbone": "efficientnet-b0",
            "spatial_dims": 2, "pretrained": True}  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert isinstance(safe({"entry": node}).get("entry"), torch.nn.Module)  # asking a hub would fail the test


TEXTS = {
    "no JSON": ("{", "configs/inference.json", "is no valid JSON"),
    "deep JSON": ("[" * 100_000, "configs/inference.json", "is no valid JSON"),
    "no YAML": ("a: [", "configs/inference.yaml", "is no valid YAML"),
    "aliases": ("a: &x [1]\nb: *x", "configs/inference.yaml", "aliases are not read"),
    "objects": ("a: !!python/object/apply:os.system ['true']", "configs/inference.yaml", "is no valid YAML"),
}


@pytest.mark.parametrize(("text", "name", "message"), TEXTS.values(), ids=TEXTS)
def test_texts_that_are_refused(text, name, message):
    with pytest.raises(ModelError, match=message):
        config.parse(text, f"{name} of x")


def test_a_configuration_that_is_nested_too_deeply(make, tmp_path):
    folder = make.spleen(tmp_path / "m")
    (folder / "configs/inference.json").write_text('{"a": ' + "[" * 90 + "]" * 90 + "}", encoding="utf-8")
    with pytest.raises(ModelError, match="is nested more than 64 deep"):
        Engine("cpu").load(f"bundle:{folder}")
    (folder / "configs/inference.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match=r"must be a table of entries\. Got list"):
        Engine("cpu").load(f"bundle:{folder}")


def test_what_a_network_is_made_from_may_lie_in_the_bundle(make, tmp_path):
    folder = make.spleen(tmp_path / "m")
    torch.save({"code": np.array([1, 2]), "n": np.int64(2)}, folder / "models/search.pt")
    path = folder / "configs/inference.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["search"] = "$torch.load(@bundle_root + '/models/search.pt', map_location=torch.device('cuda'))"
    data["network_def"]["out_channels"] = "$int(torch.from_numpy(@search['code'])[1])"
    path.write_text(json.dumps(data), encoding="utf-8")
    assert Engine("cpu").load(f"bundle:{folder}").card.classes == ("spleen",)
    data["search"] = "$torch.load('/etc/passwd')"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ModelError, match="has no /etc/passwd"):
        Engine("cpu").load(f"bundle:{folder}")


class Payload:
    def __reduce__(self):
        return print, ("this must never be seen",)


def test_weights_with_code_in_them(make, tmp_path, capsys):
    folder = make.spleen(tmp_path / "m")
    torch.save({"weight": Payload()}, folder / "models/model.pt")
    with pytest.raises(
        ModelError,
        match=r"models/model\.pt of the bundle .* holds more than tensors and numbers, and loading it would run code",
    ):
        Engine("cpu").load(f"bundle:{folder}")
    (folder / "models/model.pt").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ModelError, match=r"holds more than tensors|cannot be read"):
        Engine("cpu").load(f"bundle:{folder}")
    assert "never" not in capsys.readouterr().out


def test_a_program_in_place_of_weights_is_asked_for(make, tmp_path):
    folder = make.spleen(tmp_path / "m")
    (folder / "models/model.pt").unlink()
    with pytest.raises(ModelError, match=r"has no weights: expected \./models/model\.pt"):
        Engine("cpu").load(f"bundle:{folder}")
    (folder / "models/model.ts").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"TorchScript program, models/model\.ts.*--trust-bundle"):
        Engine("cpu").load(f"bundle:{folder}")


def test_weights_of_another_network(make, tmp_path):
    folder = make.spleen(tmp_path / "m")
    torch.save({"weight": torch.zeros(3, 1, 1, 1, 1)}, folder / "models/model.pt")
    with pytest.raises(ModelError, match=r"The weights models/model\.pt do not fit the network"):
        Engine("cpu").load(f"bundle:{folder}")


def test_code_of_its_own_only_when_trusted(make, tmp_path):
    folder = make.spleen(tmp_path / "m")
    scripts = folder / "scripts_of_a_test"
    scripts.mkdir()
    (scripts / "__init__.py").write_text("import torch\nclass Net(torch.nn.Conv3d):\n    pass\n", encoding="utf-8")
    path = folder / "configs/inference.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["network_def"]["_target_"] = "scripts_of_a_test.Net"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ModelError, match=r"builds 'scripts_of_a_test\.Net', which is not among"):
        Engine("cpu").load(f"bundle:{folder}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Engine("cpu").load(f"bundle:{folder}", trust=True)
    assert type(model.predictor.parts.network).__name__ == "Net"
    assert "its own code took part" in model.card.limits
    archive = make.pack(folder, tmp_path / "m.zip")
    with pytest.raises(ModelError, match="A trusted bundle is a folder"):
        Engine("cpu").load(f"bundle:{archive}", trust=True)


def attacked(path, name, data=b"x", *, link=False):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("configs/metadata.json", "{}")
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        if link:
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, data)
    return path


ARCHIVES = {
    "slip": ("../evil", {}, "names a place outside of itself: '../evil'"),
    "absolute": ("/etc/passwd", {}, "names a place outside of itself"),
    "drive": ("C:/evil", {}, "names a place outside of itself"),
    "backslash": ("a\\..\\b", {}, "names a place outside of itself"),
    "link": ("models/model.pt", {"link": True, "data": b"/etc/passwd"}, "holds a link, 'models/model.pt'"),
    "bomb": ("models/model.pt", {"data": bytes(8 << 20)}, "claims 8388608 bytes for 'models/model.pt'"),
}


@pytest.mark.parametrize(("name", "how", "message"), ARCHIVES.values(), ids=ARCHIVES)
def test_archives_that_are_refused(tmp_path, monkeypatch, name, how, message):
    monkeypatch.setattr(files, "MAX_RATIO", 50)  # a bomb of a size that is quick to make
    with pytest.raises(ModelError, match=message):
        files.open_files(attacked(tmp_path / "m.zip", name, **how))


def test_archives_that_claim_too_many_files_or_twice_the_same(tmp_path, monkeypatch):
    path = attacked(tmp_path / "m.zip", "a")
    monkeypatch.setattr(files, "MAX_MEMBERS", 1)
    with pytest.raises(ModelError, match="claims 2 files"):
        files.open_files(path)
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="Duplicate"):
        attacked(path, "configs/metadata.json")
    with pytest.raises(ModelError, match=r"holds 'configs/metadata\.json' twice"):
        files.open_files(path)


def test_an_archive_that_is_damaged(make, tmp_path):
    archive = make.pack(make.unet(tmp_path / "m"), tmp_path / "m.zip")
    data = bytearray(archive.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 50] = bytes(50)
    archive.write_bytes(data)
    with pytest.raises(ModelError, match=r"of the bundle .* cannot be read: .*Get it again"):
        Engine("cpu").load(f"bundle:{archive}")


def test_a_link_out_of_a_folder(make, tmp_path):
    folder = make.spleen(tmp_path / "m")
    (tmp_path / "secret").write_text("x", encoding="utf-8")
    (folder / "LICENSE").unlink()
    (folder / "LICENSE").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="has a link that leads out of it: LICENSE"):
        files.open_files(folder)


def test_what_is_no_bundle(tmp_path):
    with pytest.raises(ModelError, match="There is none at"):
        files.open_files(tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"Found no configs/metadata\.json"):
        files.open_files(tmp_path)
    (tmp_path / "x.zip").write_bytes(b"no zip")
    with pytest.raises(ModelError, match=r"is no zip archive that can be read"):
        files.open_files(tmp_path / "x.zip")


def test_files_that_are_too_large_or_no_text(make, tmp_path, monkeypatch):
    folder = make.spleen(tmp_path / "m")
    found = files.open_files(folder)
    with pytest.raises(ModelError, match="is larger than the 0 MiB"):
        found.read("configs/inference.json", limit=10)
    (folder / "LICENSE").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ModelError, match=r"LICENSE of the bundle .* is no UTF-8 text"):
        found.text("LICENSE")
    with pytest.raises(ModelError, match="has no nothing"):
        found.read("nothing")


def test_a_bundle_that_does_not_segment(make, tmp_path):
    folder = make.spleen(tmp_path / "m")
    meta = json.loads((folder / "configs/metadata.json").read_text(encoding="utf-8"))
    meta["network_data_format"]["outputs"]["pred"]["format"] = "classes"
    (folder / "configs/metadata.json").write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises(ModelError, match=r"The bundle's output is 'classes'\. Bundles that segment can be run"):
        Engine("cpu").load(f"bundle:{folder}")
