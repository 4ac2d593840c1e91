"""The files beside the checkpoints: what is listed, and what names mean."""

import hashlib
import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sdserver.catalog.networks import NetworkFolders, Networks
from sdserver.errors import InvalidField, RequestError

GOLDENS = Path(__file__).parents[1] / "goldens"
Make = Callable[..., Networks]


def put(path: Path, content: bytes = b"weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def safetensors(metadata: dict[str, str] | None = None, tensors: bytes = b"") -> bytes:
    header = json.dumps({"__metadata__": metadata or {}}).encode()
    return struct.pack("<Q", len(header)) + header + tensors


@pytest.fixture
def folders(tmp_path: Path) -> NetworkFolders:
    return NetworkFolders(
        lora=(tmp_path / "Lora", tmp_path / "LyCORIS"),
        embeddings=(tmp_path / "embeddings",),
        hypernetworks=(tmp_path / "hypernetworks",),
        esrgan=(tmp_path / "ESRGAN",),
        real_esrgan=(tmp_path / "RealESRGAN",),
        vae=(tmp_path / "VAE",),
        beside_checkpoints=(tmp_path / "Stable-diffusion",),
    )


@pytest.fixture
def make(tmp_path: Path, folders: NetworkFolders) -> Make:
    def made(*, allow_pickle: bool = True, vae_path: Path | None = None) -> Networks:
        given = replace(folders, vae_path=vae_path)
        return Networks(given, tmp_path / "cache" / "hashes.json", allow_pickle=allow_pickle)

    return made


def test_nothing_is_there_without_folders(make: Make) -> None:
    networks = make()
    lists = (networks.loras(), networks.embeddings(), networks.vaes(), networks.upscalers())
    assert lists == ((), (), (), ())
    assert networks.find_lora("any") is None
    assert networks.vae_for("/m/any.safetensors", "Automatic", overrides_per_model=True) is None


def test_kinds_are_listed_by_their_names(make: Make, tmp_path: Path) -> None:
    for name in (
        "Lora/sub/b.safetensors",
        "Lora/a.pt",
        "LyCORIS/c.ckpt",
        "Lora/no.txt",
        "Lora/.hid.safetensors",
    ):
        put(tmp_path / name)
    for name in (
        "hypernetworks/h.pt",
        "hypernetworks/None.pt",
        "ESRGAN/x4.pth",
        "RealESRGAN/RealESRGAN_x4plus.pth",
    ):
        put(tmp_path / name)
    put(tmp_path / "embeddings" / "empty.pt", b"")
    for name in ("VAE/v10.pt", "VAE/v9.safetensors", "Stable-diffusion/m.vae.safetensors"):
        put(tmp_path / name)
    put(tmp_path / "Stable-diffusion" / "m.safetensors")
    networks = make()
    assert [file.name for file in networks.loras()] == ["a", "b", "c"]
    assert [file.name for file in networks.hypernetworks()] == ["h"]
    assert [file.name for file in networks.upscalers()] == ["R-ESRGAN 4x+", "x4"]
    assert [file.name for file in networks.vaes()] == ["m.vae.safetensors", "v9.safetensors", "v10.pt"]
    assert networks.embeddings() == ()
    upscaler = networks.find_upscaler("x4")
    assert upscaler is not None
    assert upscaler.path == str(tmp_path / "ESRGAN" / "x4.pth")
    assert networks.find_upscaler("Lanczos") is None


def test_a_lora_is_found_by_name_and_alias(make: Make, tmp_path: Path) -> None:
    put(tmp_path / "Lora" / "file.safetensors", safetensors({"ss_output_name": "alias"}))
    networks = make()
    for name in ("file", "alias"):
        found = networks.find_lora(name)
        assert found is not None
        assert (found.name, found.alias) == ("file", "alias")
    for name in ("Alias", "file.safetensors", "Lora/file", "../Lora/file", "", "x" * 10_000):
        assert networks.find_lora(name) is None


def test_an_alias_of_two_files_means_neither(make: Make, tmp_path: Path) -> None:
    put(tmp_path / "Lora" / "one.safetensors", safetensors({"ss_output_name": "Same"}))
    put(tmp_path / "Lora" / "two.safetensors", safetensors({"ss_output_name": "Same"}))
    put(tmp_path / "Lora" / "three.safetensors", safetensors({"ss_output_name": "none"}))
    put(tmp_path / "Lora" / "four.safetensors", safetensors({"ss_output_name": "Addams"}))
    networks = make()
    assert [networks.find_lora(name) for name in ("Same", "none", "Addams")] == [None] * 3
    assert all(networks.find_lora(name) for name in ("one", "two", "three", "four"))


def test_a_name_beats_the_alias_that_came_before_it(make: Make, tmp_path: Path) -> None:
    put(tmp_path / "Lora" / "a.safetensors", safetensors({"ss_output_name": "b"}))
    put(tmp_path / "Lora" / "b.safetensors", safetensors())
    found = make().find_lora("b")
    assert found is not None
    assert found.name == "b"


def test_metadata_comes_as_a1111_shows_it(make: Make, tmp_path: Path) -> None:
    metadata = {"x": "1", "ss_tag_frequency": '{"a": {"b": 2}}', "ss_sd_model_name": "m", "bad": '{"a": NaN}'}
    metadata["ssmd_cover_images"] = "iVBORw0KGgo="
    put(tmp_path / "Lora" / "a.safetensors", safetensors(metadata))
    (lora,) = make().loras()
    assert list(lora.metadata.items()) == [
        ("ss_sd_model_name", "m"),
        ("ss_tag_frequency", {"a": {"b": 2}}),
        ("x", "1"),
        ("bad", '{"a": NaN}'),
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 100) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b'{"a:',
        struct.pack("<Q", 200_000) + b"[" * 200_000,
        struct.pack("<Q", 4) + b'"\xff"}',
        safetensors()[:8] + b'{"__metadata__":5} '[: len(safetensors()) - 8],
    ],
)
def test_a_hostile_header_leaves_a_lora_without_metadata(make: Make, tmp_path: Path, content: bytes) -> None:
    put(tmp_path / "Lora" / "a.safetensors", content)
    (lora,) = make().loras()
    assert (lora.name, lora.alias, dict(lora.metadata)) == ("a", "a", {})
    hashed = make().hashed(lora)
    assert hashed.sha256 is not None


def test_metadata_that_no_answer_could_hold_stays_text(make: Make, tmp_path: Path) -> None:
    deep = '{"a":' * 300 + "1" + "}" * 300
    put(tmp_path / "Lora" / "a.safetensors", safetensors({"deep": deep}))
    (lora,) = make().loras()
    assert lora.metadata["deep"] == deep


def test_hashes_are_those_of_infotexts(tmp_path: Path) -> None:
    folders = NetworkFolders(
        lora=(GOLDENS / "checkpoints" / "lora",), embeddings=(GOLDENS / "checkpoints" / "embeddings",)
    )
    networks = Networks(folders, tmp_path / "hashes.json", allow_pickle=True)
    found = {
        file.name: networks.hashed(file).short_hash for file in (*networks.loras(), *networks.embeddings())
    }
    assert found["tinylocon"] == "b68de8b7e0a4"
    assert found["tinyemb"] == "de349d35dad0"
    assert found["tinyptemb"] == "81f8b378b7df"
    again = Networks(folders, tmp_path / "hashes.json", allow_pickle=True)
    lora = next(file for file in again.loras() if file.name == "tinylocon")
    assert lora.short_hash is None
    assert again.known(lora).short_hash == "b68de8b7e0a4"
    by_hash = again.lora_of_hash("b68de8b7e0a4")
    assert by_hash is not None
    assert by_hash.name == "tinylocon"


def test_a_loras_hash_is_of_its_tensors_or_what_its_header_says(make: Make, tmp_path: Path) -> None:
    put(tmp_path / "Lora" / "a.safetensors", safetensors({"k": "v"}, b"tensors"))
    stated = "ab" * 32
    put(tmp_path / "Lora" / "b.safetensors", safetensors({"sshs_model_hash": stated}, b"tensors"))
    put(tmp_path / "Lora" / "c.safetensors", safetensors({"sshs_model_hash": "nonsense, b: 1"}, b"other"))
    put(tmp_path / "Lora" / "d.pt", b"whole file")
    networks = make()
    hashes = {file.name: networks.hashed(file).sha256 for file in networks.loras()}
    assert hashes == {
        "a": hashlib.sha256(b"tensors").hexdigest(),
        "b": stated,
        "c": hashlib.sha256(b"other").hexdigest(),
        "d": hashlib.sha256(b"whole file").hexdigest(),
    }


def test_a_vaes_hash_is_short(make: Make, tmp_path: Path) -> None:
    put(tmp_path / "VAE" / "v.safetensors")
    networks = make()
    (vae,) = networks.vaes()
    assert networks.hashed(vae).short_hash == hashlib.sha256(b"weights").hexdigest()[:10]


def test_pickles_are_left_out_unless_allowed(make: Make, tmp_path: Path) -> None:
    put(tmp_path / "Lora" / "a.pt")
    put(tmp_path / "hypernetworks" / "h.pt")
    put(tmp_path / "VAE" / "v.pt")
    networks = make(allow_pickle=False)
    assert (networks.loras(), networks.hypernetworks(), networks.vaes()) == ((), (), ())
    for find, name in (
        (networks.find_lora, "a"),
        (networks.find_hypernetwork, "h"),
        (networks.find_vae, "v.pt"),
    ):
        with pytest.raises(RequestError, match="--allow-pickle"):
            find(name)
    assert networks.find_lora("other") is None


def test_refresh_finds_what_was_added_and_changed(make: Make, tmp_path: Path) -> None:
    networks = make()
    file = put(tmp_path / "Lora" / "a.safetensors", safetensors({"ss_output_name": "one"}))
    assert networks.find_lora("one") is None
    networks.refresh()
    assert networks.find_lora("one") is not None
    file.write_bytes(safetensors({"ss_output_name": "other"}))
    networks.refresh()
    assert networks.find_lora("one") is None
    assert networks.find_lora("other") is not None
    file.unlink()
    networks.refresh()
    assert networks.loras() == ()


def test_links_are_followed_and_loops_end(make: Make, tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "a.safetensors", safetensors())
    (tmp_path / "Lora").mkdir()
    (tmp_path / "Lora" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "Lora")
    (tmp_path / "Lora" / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "Lora" / "pipe.safetensors")
    assert [file.path for file in make().loras()] == [str(tmp_path / "Lora" / "link" / "a.safetensors")]


def test_names_that_are_no_text_are_left_out(make: Make, tmp_path: Path) -> None:
    put(tmp_path / "Lora" / os.fsdecode(b"a\xff.safetensors"), safetensors())
    assert make().loras() == ()


def vae_name(
    networks: Networks, place: Path, chosen: str, *, overrides: bool = True, stem: str = "m"
) -> str | None:
    found = networks.vae_for(f"{place}/{stem}.safetensors", chosen, overrides_per_model=overrides)
    return found.name if found else None


@pytest.mark.parametrize("overrides", [True, False])
def test_the_chosen_vae_is_used(make: Make, tmp_path: Path, overrides: bool) -> None:
    put(tmp_path / "VAE" / "x.safetensors")
    networks = make()
    assert (
        vae_name(networks, tmp_path / "Stable-diffusion", "x.safetensors", overrides=overrides)
        == "x.safetensors"
    )
    assert vae_name(networks, tmp_path / "Stable-diffusion", "Automatic", overrides=overrides) is None
    assert vae_name(networks, tmp_path / "Stable-diffusion", "None", overrides=overrides) is None
    with pytest.raises(InvalidField, match="no VAE 'y'"):
        vae_name(networks, tmp_path / "Stable-diffusion", "y", overrides=overrides)


def test_what_stands_beside_the_checkpoint_is_used_unless_a_choice_beats_it(
    make: Make, tmp_path: Path
) -> None:
    put(tmp_path / "VAE" / "x.safetensors")
    put(tmp_path / "Stable-diffusion" / "m.vae.safetensors")
    networks = make()
    assert vae_name(networks, tmp_path / "Stable-diffusion", "Automatic") == "m.vae.safetensors"
    assert vae_name(networks, tmp_path / "Stable-diffusion", "x.safetensors") == "x.safetensors"
    assert vae_name(networks, tmp_path / "Stable-diffusion", "None") is None
    assert (
        vae_name(networks, tmp_path / "Stable-diffusion", "x.safetensors", overrides=False)
        == "m.vae.safetensors"
    )
    assert (
        vae_name(networks, tmp_path / "Stable-diffusion", "x.safetensors", overrides=False, stem="other")
        == "x.safetensors"
    )


def test_the_sidecar_goes_before_the_neighbour(make: Make, tmp_path: Path) -> None:
    put(tmp_path / "VAE" / "x.safetensors")
    put(tmp_path / "Stable-diffusion" / "m.vae.safetensors")
    sidecar = tmp_path / "Stable-diffusion" / "m.json"
    networks = make()
    for content, expected in (
        ('{"vae": "x.safetensors"}', "x.safetensors"),
        ('{"vae": "None"}', None),
        ('{"vae": "Automatic"}', "m.vae.safetensors"),
        ('{"vae": "gone.safetensors"}', "m.vae.safetensors"),
        ('{"vae": ["x"]}', "m.vae.safetensors"),
        ("[" * 100_000, "m.vae.safetensors"),
        ("", "m.vae.safetensors"),
    ):
        put(sidecar, content.encode())
        assert vae_name(networks, tmp_path / "Stable-diffusion", "Automatic") == expected, content


def test_the_vae_of_the_command_line_goes_before_all(make: Make, tmp_path: Path) -> None:
    given = put(tmp_path / "elsewhere.safetensors")
    put(tmp_path / "VAE" / "x.safetensors")
    networks = make(vae_path=given)
    assert vae_name(networks, tmp_path / "Stable-diffusion", "x.safetensors") == "elsewhere.safetensors"
    assert vae_name(networks, tmp_path / "Stable-diffusion", "None") == "elsewhere.safetensors"
