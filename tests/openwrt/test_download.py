"""An image is used only if its checksum is the one that is pinned, or that the release names."""

import hashlib

import openwrt_tests
import pytest

CONTENT = b"an image"
RIGHT = hashlib.sha256(CONTENT).hexdigest()
WRONG = "0" * 64


@pytest.fixture
def internet(monkeypatch, tmp_path):
    """What downloads.openwrt.org has: {name: content}; and nothing is pinned."""
    found = {openwrt_tests.IMAGE: CONTENT, "sha256sums": f"{RIGHT} *{openwrt_tests.IMAGE}".encode()}
    monkeypatch.setattr(openwrt_tests, "get", lambda url: found[url.rsplit("/", 1)[1]])
    monkeypatch.setattr(openwrt_tests, "PINNED", tmp_path / "pinned")
    return found


def test_an_image_with_the_checksum_that_the_release_names_is_taken(internet, tmp_path):
    path = openwrt_tests.download(tmp_path / "images")
    assert path.read_bytes() == CONTENT
    internet[openwrt_tests.IMAGE] = b"is not asked for again"
    assert openwrt_tests.download(tmp_path / "images") == path


def test_an_image_with_another_checksum_is_refused(internet, tmp_path):
    internet[openwrt_tests.IMAGE] = b"another"
    with pytest.raises(openwrt_tests.DownloadError, match="checksum"):
        openwrt_tests.download(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_pinned_wins_over_what_the_release_says(internet, tmp_path):
    openwrt_tests.PINNED.write_text(f"{WRONG}  {openwrt_tests.IMAGE}\n")
    with pytest.raises(openwrt_tests.DownloadError, match=WRONG):
        openwrt_tests.download(tmp_path / "images")


def test_an_image_that_the_release_does_not_list_is_refused(internet, tmp_path):
    internet["sha256sums"] = b"\n"
    with pytest.raises(openwrt_tests.DownloadError, match="does not list"):
        openwrt_tests.download(tmp_path)
