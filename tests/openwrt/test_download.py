"""An image is used only if its checksum is in the release's list, and that is the pinned one."""

import hashlib

import openwrt_tests
import pytest

CONTENT = b"an image"
RIGHT = hashlib.sha256(CONTENT).hexdigest()
WRONG = "0" * 64


@pytest.fixture
def internet(monkeypatch):
    """What the release's folder has, {name: content}; its list is the one that is pinned."""
    found = {openwrt_tests.IMAGE: CONTENT}
    monkeypatch.setattr(openwrt_tests, "get", lambda url: found[url.rsplit("/", 1)[1]])

    def publish(listing):
        found["sha256sums"] = listing.encode()
        pinned = hashlib.sha256(found["sha256sums"]).hexdigest()
        monkeypatch.setattr(openwrt_tests, "LIST_CHECKSUM", pinned)

    publish(f"{RIGHT} *{openwrt_tests.IMAGE}")
    found["publish"] = publish
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


def test_a_list_that_is_not_the_pinned_one_is_not_believed(internet, tmp_path):
    internet[openwrt_tests.IMAGE] = b"another"
    forged = hashlib.sha256(b"another").hexdigest()
    internet["sha256sums"] = f"{forged} *{openwrt_tests.IMAGE}".encode()
    with pytest.raises(openwrt_tests.DownloadError, match="sha256sums has the checksum"):
        openwrt_tests.download(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_the_release_does_not_list_is_refused(internet, tmp_path):
    internet["publish"](f"{WRONG} *something-else")
    with pytest.raises(openwrt_tests.DownloadError, match="does not list"):
        openwrt_tests.download(tmp_path)
