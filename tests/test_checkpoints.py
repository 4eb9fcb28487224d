"""Weights come from every format and place, and whatever is wrong with them is one clear error.

The checkpoints are small random CLIPs in the official layout, the server is on this machine.
"""

import hashlib
import http.server
import os
import pickle
import resource
import socket
import threading
import warnings
import zipfile
from pathlib import Path

import open_clip
import pytest
import safetensors.torch
import torch
from torch import nn

import checkpoints
from checkpoint_files import (
    EXTRAS,
    FORMATS,
    KNOWN,
    Tree,
    half,
    save_scripted,
    small_resnet,
    small_vit,
)
from checkpoints import CheckpointError, available_models, load_state_dict
from clip_ import load, similarity_score, tokenize
from model import build_model

OFFICIAL_NAMES = [
    *("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"),
    *("ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px"),
]


@pytest.fixture(scope="module", params=[small_vit, small_resnet], ids=["ViT", "ResNet"])
def weights(request):
    return request.param().state_dict()


@pytest.fixture(scope="module")
def vit():
    return small_vit().state_dict()


def assert_same_weights(result: dict, expected: dict) -> None:
    assert result.keys() == expected.keys()
    for name, tensor in result.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name]), name


# Formats


def test_torchscript_archives_as_openai_ships_them(tmp_path, weights):
    path = tmp_path / "clip.pt"
    expected = save_scripted(Tree(half(weights), EXTRAS), path)
    assert {tensor.dtype for tensor in expected.values()} >= {torch.float16, torch.float32}
    for name in EXTRAS:
        del expected[name]
    assert_same_weights(load_state_dict(path), expected)


def test_torchscript_archives_of_traced_networks(tmp_path):
    vision = open_clip.CLIPVisionCfg(layers=2, width=64, patch_size=16, image_size=32)
    text = open_clip.CLIPTextCfg(layers=1, width=64, heads=1)
    network = open_clip.CLIP(16, vision, text, quick_gelu=True).eval()
    images = torch.randn(1, 3, 32, 32)
    path = tmp_path / "traced.pt"
    save_scripted(network, path, (images, tokenize("a horse")))
    assert_same_weights(load_state_dict(path), network.state_dict())
    model, _ = load(path, device="cpu", activation="quickgelu", heads=(1, 1))
    torch.testing.assert_close(model.encode_image(images), network.encode_image(images))


def test_tensors_that_share_a_storage_are_read_from_their_part_of_it(tmp_path, vit):
    both = torch.randn(2, 16, 64)
    vit = {**vit, "visual.proj": both[1].T, "text_projection": both[0].T}
    save_scripted(Tree(vit, {}), tmp_path / "clip.pt")
    assert_same_weights(load_state_dict(tmp_path / "clip.pt"), vit)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_state_dicts(tmp_path, weights, zipped):
    path = tmp_path / "clip.bin"
    torch.save({**weights, **EXTRAS}, path, _use_new_zipfile_serialization=zipped)
    assert_same_weights(load_state_dict(path), weights)


def test_safetensors(tmp_path, weights):
    path = tmp_path / "clip.anything"  # the content tells the format, not the name
    safetensors.torch.save_file(half(weights), path)
    assert_same_weights(load_state_dict(str(path)), half(weights))


@pytest.mark.parametrize("first_bytes", [b"PK\0\0", b"\x80\x4b\0\0"], ids=["zip", "pickle"])
def test_safetensors_whose_first_bytes_look_like_another_format(tmp_path, vit, first_bytes):
    content = safetensors.torch.save(vit)
    length, wanted = (int.from_bytes(part, "little") for part in (content[:8], first_bytes))
    padding = b" " * (wanted - length)
    (tmp_path / "clip").write_bytes(
        wanted.to_bytes(8, "little") + content[8 : 8 + length] + padding + content[8 + length :]
    )
    assert_same_weights(load_state_dict(tmp_path / "clip"), vit)


# load


@pytest.mark.parametrize("write", [torch.save, safetensors.torch.save_file], ids=["pt", "st"])
def test_load_gives_a_float32_network_in_evaluation_mode_on_cpu(tmp_path, weights, write):
    write(half(weights), tmp_path / "clip")
    heads = build_model(weights).visual.attnpool.heads if "visual.proj" not in weights else 1
    model, preprocess = load(
        str(tmp_path / "clip"), "cpu", activation="quickgelu", heads=(heads, 1)
    )
    assert not model.training
    assert model.dtype == torch.float32
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert preprocess.transforms[1].size == model.visual.input_resolution == 32
    expected = build_model(half(weights))
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(model.encode_image(images), expected.encode_image(images))


def test_load_takes_the_dtype_asked_for(tmp_path, vit):
    torch.save(vit, tmp_path / "clip.pt")
    model, _ = load(tmp_path / "clip.pt", "cpu", dtype=torch.float64, **KNOWN)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    model, _ = load(tmp_path / "clip.pt", "cpu", dtype=torch.bfloat16, **KNOWN)
    assert model.dtype == torch.bfloat16
    assert model.ln_final.weight.dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_load_gives_float16_on_cuda(tmp_path, vit):
    torch.save(vit, tmp_path / "clip.pt")
    model, _ = load(tmp_path / "clip.pt", "cuda", **KNOWN)
    assert model.dtype == torch.float16
    assert model.encode_image(torch.randn(1, 3, 32, 32, device="cuda")).isfinite().all()
    model, _ = load(tmp_path / "clip.pt", "cuda", dtype=torch.float32, **KNOWN)
    assert model.dtype == torch.float32


def test_a_torchscript_model_is_refused_because_it_cannot_be_explained():
    with pytest.raises(ValueError, match=r"TorchScript model cannot be explained.*jit=False"):
        load("ViT-B/32", "cpu", True)


def test_similarity_score_is_a_hundred_times_the_cosine():
    model = small_vit().double()
    image = torch.randn(1, 3, 32, 32)
    target = model.encode_text(tokenize("a horse"))
    features = model.encode_image(image)
    expected = 100 * (features @ target.T).item() / (features.norm() * target.norm()).item()
    score = similarity_score(model, image, target)
    assert score.shape == ()
    assert score.item() == pytest.approx(expected, rel=1e-12)
    assert similarity_score(model, image, 7 * target[0]).item() == pytest.approx(expected, rel=1e-9)
    assert similarity_score(model, image, features).item() == pytest.approx(100)


@pytest.mark.parametrize("length", [1e20, 1e-24])
def test_similarity_score_depends_on_directions_alone(length):
    model, image, target = small_vit(), torch.randn(1, 3, 32, 32), torch.ones(1, 16)
    expected = similarity_score(model, image, target)
    torch.testing.assert_close(similarity_score(model, image, length * target), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(similarity_score(model, image, target), expected)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.ones(1, 17), r"one target \[1, 16\].*\[1, 17\]"),
        (torch.ones(2, 16), r"one target \[1, 16\].*\[2, 16\]"),
        (torch.zeros(1, 16), "all zero"),
        (torch.full((1, 16), torch.nan), "NaN or infinity"),
    ],
)
def test_similarity_score_refuses_targets_without_a_cosine(target, message):
    with pytest.raises(ValueError, match=message):
        similarity_score(small_vit(), torch.randn(1, 3, 32, 32), target)


# Names


def test_available_models_are_the_installed_embedded_ones_and_the_official_ones(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoints, "EMBEDDED_FOLDER", tmp_path)
    assert available_models() == OFFICIAL_NAMES
    (tmp_path / "ViT-emoji.safetensors").touch()
    assert available_models() == ["ViT-emoji", *OFFICIAL_NAMES]


def test_an_embedded_model_is_loaded_by_its_name(tmp_path, monkeypatch, weights):
    monkeypatch.setattr(checkpoints, "EMBEDDED_FOLDER", tmp_path)
    safetensors.torch.save_file(weights, tmp_path / "RN-emoji.safetensors")
    assert_same_weights(load_state_dict("RN-emoji"), weights)


@pytest.mark.parametrize("name", ["ViT-B-32", "no/such/file.pt", "", "a" * 200, "a\0b"])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(name):
    with pytest.raises(CheckpointError, match="neither a known model nor a file") as error:
        load(name, "cpu")
    assert all(known in str(error.value) for known in available_models())


def test_official_files_are_named_and_checked_as_the_official_package_does():
    assert list(checkpoints.OFFICIAL) == OFFICIAL_NAMES
    for name, location in checkpoints.OFFICIAL.items():
        sha256, file_name = location.split("/")
        assert len(bytes.fromhex(sha256)) == 32
        assert file_name == name.replace("/", "-").replace("@", "-") + ".pt"
        pretrained = open_clip.get_pretrained_cfg(
            name.replace("/", "-").replace("@336px", "-336"), "openai"
        )
        assert pretrained["url"] == f"{checkpoints.official.OFFICIAL_SITE}/{location}"


# Downloads


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `answers` one after the other, the last one for ever."""

    answers: list[tuple[bytes, int | str | None]]  # what is sent, and the length that is promised
    requests: list[str]
    pause = 0.0  # seconds before each byte, if any

    def do_GET(self):
        self.requests.append(self.path)
        body, length = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        try:
            for start in range(0, len(body), 1 if self.pause else len(body)):
                threading.Event().wait(self.pause)
                self.wfile.write(body[start : start + 1] if self.pause else body)
        except OSError:  # the other side has had enough
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def archive(tmp_path_factory, vit):
    path = tmp_path_factory.mktemp("served") / "ViT-B-32.pt"
    torch.save(vit, path)
    return path.read_bytes()


@pytest.fixture
def server(archive, monkeypatch):
    """A server in the place of OpenAI's, for a small "ViT-B/32"."""
    sha256 = hashlib.sha256(archive).hexdigest()
    handler = type("Handler", (Server,), {"answers": [(archive, len(archive))], "requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        site = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(checkpoints.official, "OFFICIAL_SITE", site)
        monkeypatch.setitem(checkpoints.OFFICIAL, "ViT-B/32", f"{sha256}/ViT-B-32.pt")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield handler
        server.shutdown()


def test_an_official_model_is_downloaded_once_with_a_progress_bar(
    tmp_path, server, archive, vit, capsys
):
    assert_same_weights(load_state_dict("ViT-B/32", tmp_path / "cache"), vit)
    assert "100%" in capsys.readouterr().err
    assert (tmp_path / "cache/ViT-B-32.pt").read_bytes() == archive
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["ViT-B-32.pt"]
    load("ViT-B/32", "cpu", download_root=tmp_path / "cache")
    assert len(server.requests) == 1


def test_official_files_are_kept_where_the_official_package_keeps_them(
    tmp_path, server, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    load_state_dict("ViT-B/32")
    assert (tmp_path / ".cache/clip/ViT-B-32.pt").is_file()


def test_a_file_that_is_there_already_needs_no_network(tmp_path, server, archive, vit):
    server.answers[:] = []  # any request would fail
    (tmp_path / "ViT-B-32.pt").write_bytes(archive)
    assert_same_weights(load_state_dict("ViT-B/32", tmp_path), vit)


def test_a_file_with_a_wrong_checksum_is_replaced(tmp_path, server, archive):
    (tmp_path / "ViT-B-32.pt").write_bytes(archive[:1000])
    load_state_dict("ViT-B/32", tmp_path)
    assert (tmp_path / "ViT-B-32.pt").read_bytes() == archive


def test_a_download_that_is_cut_off_is_started_again(tmp_path, server, archive, vit):
    server.answers.insert(0, (archive[: len(archive) // 2], len(archive)))
    assert_same_weights(load_state_dict("ViT-B/32", tmp_path), vit)
    assert len(server.requests) == 2


def test_a_download_that_stays_cut_off_is_an_error_and_leaves_nothing(tmp_path, server, archive):
    server.answers[:] = [(archive[:1000], len(archive))]
    with pytest.raises(CheckpointError, match="cannot download ViT-B/32"):
        load_state_dict("ViT-B/32", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_download_with_a_wrong_checksum_is_an_error_and_leaves_nothing(tmp_path, server):
    server.answers[:] = [(b"<html>please log in</html>", 26)]
    wanted = checkpoints.OFFICIAL["ViT-B/32"].split("/")[0]
    found = hashlib.sha256(b"<html>please log in</html>").hexdigest()
    with pytest.raises(
        CheckpointError, match=f"SHA256 hash of downloaded file: {found} instead of {wanted}"
    ):
        load_state_dict("ViT-B/32", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [1000, None, "many"], ids=["less", "none", "odd"])
def test_a_length_that_is_not_the_files_is_noticed(tmp_path, server, archive, length):
    server.answers[:] = [(archive[:-1], length)]
    with pytest.raises(CheckpointError, match="cannot download ViT-B/32"):
        load_state_dict("ViT-B/32", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_tells_no_length_is_good_enough(tmp_path, server, archive, vit):
    server.answers[:] = [(archive, None)]
    assert_same_weights(load_state_dict("ViT-B/32", tmp_path), vit)


def test_a_download_that_trickles_has_an_end(tmp_path, server, monkeypatch):
    monkeypatch.setattr(checkpoints.official, "PATIENCE", 0.3)
    server.pause = 0.01
    with pytest.raises(CheckpointError, match="less than 10,000 bytes a second"):
        load_state_dict("ViT-B/32", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_stalls_has_an_end(tmp_path, server, monkeypatch):
    monkeypatch.setattr(checkpoints.official, "PATIENCE", 0.1)
    server.pause = 1
    with pytest.raises(CheckpointError, match=r"cannot download ViT-B/32: .*timed out"):
        load_state_dict("ViT-B/32", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_download_without_end_has_one(tmp_path, server, archive, monkeypatch):
    monkeypatch.setattr(checkpoints.official, "LARGEST", len(archive) // 2)
    with pytest.raises(CheckpointError, match=r"more than [0-9,]+ bytes came"):
        load_state_dict("ViT-B/32", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_speak_http_is_an_error(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        def greet():
            for _ in range(2):  # attempts
                with other.accept()[0] as connection:
                    connection.recv(1000)
                    connection.sendall(b"220 mail ready\r\n")

        threading.Thread(target=greet, daemon=True).start()
        monkeypatch.setattr(checkpoints.official, "OFFICIAL_SITE", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with pytest.raises(CheckpointError, match="cannot download ViT-B/32"):
            load_state_dict("ViT-B/32", tmp_path)


def test_a_full_disk_leaves_nothing(tmp_path, server):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # bytes in a file
    try:
        with pytest.raises(CheckpointError, match=r"cannot download ViT-B/32: .*File too large"):
            load_state_dict("ViT-B/32", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_download_left_is_removed_by_the_next(tmp_path, server):
    old, new, other = (
        tmp_path / f".unfinished-{n}{end}"
        for n, end in zip("012", (".pt", ".pt", ".png"), strict=True)
    )
    for path in (old, new, other):
        path.write_bytes(b"PK")
    for path in (old, other):
        os.utime(path, (0, 0))
    load_state_dict("ViT-B/32", tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([new, other, tmp_path / "ViT-B-32.pt"])


def test_two_that_download_at_once_both_have_the_file(tmp_path, server, archive, vit):
    server.pause = 0.0
    both = threading.Barrier(2)
    write, results = server.do_GET, []

    def together(self):
        both.wait(30)
        write(self)

    server.do_GET = together
    threads = [
        threading.Thread(target=lambda: results.append(load_state_dict("ViT-B/32", tmp_path)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    for result in results:
        assert_same_weights(result, vit)
    assert [path.name for path in tmp_path.iterdir()] == ["ViT-B-32.pt"]


def test_without_a_network_the_error_says_how_to_do_without(tmp_path, server, monkeypatch):
    (tmp_path / "ViT-emoji.safetensors").touch()
    monkeypatch.setattr(checkpoints, "EMBEDDED_FOLDER", tmp_path)
    monkeypatch.setattr(
        checkpoints.official, "OFFICIAL_SITE", "http://127.0.0.1:9"
    )  # nobody listens
    folder = tmp_path / "cache"
    with pytest.raises(CheckpointError) as error:
        load_state_dict("ViT-B/32", folder)
    message = str(error.value)
    sha256 = checkpoints.OFFICIAL["ViT-B/32"].split("/")[0]
    assert f"Fetch http://127.0.0.1:9/{sha256}/ViT-B-32.pt by hand" in message
    assert f"save it as {folder / 'ViT-B-32.pt'} (SHA-256 {sha256})" in message
    assert "load 'open_clip:ViT-B-32/openai', the hub's copy" in message
    assert "use an embedded model (ViT-emoji)" in message
    assert "another checksum" not in message


def test_without_a_network_a_file_with_a_wrong_checksum_is_an_error_that_says_so(
    tmp_path, server, monkeypatch
):
    monkeypatch.setattr(checkpoints.official, "OFFICIAL_SITE", "http://127.0.0.1:9")
    (tmp_path / "ViT-B-32.pt").write_bytes(b"PK cut off")
    with pytest.raises(CheckpointError, match="the file that is there now has another checksum"):
        load_state_dict("ViT-B/32", tmp_path)
    assert (tmp_path / "ViT-B-32.pt").read_bytes() == b"PK cut off"


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, server):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot download ViT-B/32"):
        load_state_dict("ViT-B/32", tmp_path / "file")


# Broken files


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("part", [0.001, 0.3, 0.999])
def test_a_cut_off_file_is_an_error(tmp_path, vit, format, part):
    path = tmp_path / "clip.pt"
    FORMATS[format](vit, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(CheckpointError, match=f"{path} (is cut off|holds more than tensors)"):
        load_state_dict(path)


def test_a_damaged_torchscript_archive_is_an_error(tmp_path, vit):
    path = tmp_path / "clip.pt"
    FORMATS["torchscript"](vit, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is cut off or damaged: Bad CRC-32"):
        load_state_dict(path)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x89PNG\r\n\x1a\n" * 3])
def test_what_is_not_a_checkpoint_is_an_error_that_says_what_would_be(tmp_path, content):
    path = tmp_path / "clip.pt"
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match="is not a checkpoint: expected a TorchScript archive"
    ):
        load_state_dict(path)


# Other checkpoints


def test_a_checkpoint_of_another_network_is_an_error_that_names_what_is_missing(tmp_path):
    torch.save(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)).state_dict(), tmp_path / "other.pt")
    with pytest.raises(CheckpointError) as error:
        load_state_dict(tmp_path / "other.pt")
    message = str(error.value)
    assert "other.pt is not a CLIP" in message
    assert "it has no visual.conv1.weight, token_embedding.weight" in message
    assert "0.weight, 0.bias" in message


@pytest.mark.parametrize("name", ["logit_scale", "text_projection", "visual.proj"])
def test_a_checkpoint_without_one_essential_is_an_error_that_names_it(tmp_path, vit, name):
    torch.save({key: value for key, value in vit.items() if key != name}, tmp_path / "clip.pt")
    with pytest.raises(CheckpointError, match=f"it has no {name}"):
        load_state_dict(tmp_path / "clip.pt")


def test_a_checkpoint_without_one_layer_is_an_error_that_names_it(tmp_path, vit):
    name = "visual.transformer.resblocks.1.mlp.c_fc.weight"
    torch.save({key: value for key, value in vit.items() if key != name}, tmp_path / "clip.pt")
    with pytest.raises(ValueError, match=name):
        load(tmp_path / "clip.pt", "cpu")


@pytest.mark.parametrize("content", [[1, 2], {}, torch.ones(3), {"epoch": 3, "state_dict": {}}])
def test_other_contents_are_an_error(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="expected a state dict in the layout of OpenAI's"):
        load_state_dict(tmp_path / "other.pt")


# Nothing is executed


class Payload:
    """Unpickled without care, it makes the folder `mark`."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.mkdir, (self.mark,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, vit, zipped):
    mark = tmp_path / "executed"
    content = {**vit, "payload": Payload(mark)}
    torch.save(content, tmp_path / "evil.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"holds more than tensors.*state_dict\(\)"):
        load_state_dict(tmp_path / "evil.pt")
    assert not mark.exists()


def test_a_torchscript_archive_that_would_run_code_is_refused(tmp_path):
    mark, path = tmp_path / "executed", tmp_path / "evil.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps(Payload(mark)))
        archive.writestr("evil/constants.pkl", b"")
    with pytest.raises(CheckpointError, match=r"evil\.pt is refused: it names pathlib\.Path"):
        load_state_dict(path)
    assert not mark.exists()


def test_the_program_of_a_torchscript_archive_does_not_run(tmp_path, vit):
    class Program(Tree):
        @torch.jit.export
        def __getstate__(self) -> int:
            return 0

        @torch.jit.export
        def __setstate__(self, state: int) -> None:
            raise AssertionError("the program ran")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Program(vit, {})).save(str(tmp_path / "program.pt"))
    with pytest.raises(
        CheckpointError, match=r"program\.pt is .* damaged: a module whose state is not a dict"
    ):
        load_state_dict(tmp_path / "program.pt")


def test_a_whole_pickled_network_is_refused_with_advice(tmp_path):
    torch.save(small_vit(), tmp_path / "network.pt")
    with pytest.raises(CheckpointError, match=r"save the model's state_dict\(\) instead"):
        load_state_dict(tmp_path / "network.pt")
