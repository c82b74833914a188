"""Samples: parsing on tiny archives made here, publishing on the digits of scikit-learn."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from warmstart.core import DataError, UsageError, verify_manifest
from warmstart.data import samples
from warmstart.data._samples import fashion, fetch
from warmstart.data._samples.archives import deb_data, gunzip, tar_member, zip_member
from warmstart.data._samples.pictures import Pictures, limited, read_idx, stratified
from warmstart.data._samples.texts import (
    DOMAINS,
    movielens_tables,
    read_valences,
    sentiment_label,
    sentiment_tables,
    write_csv,
)
from warmstart.data.samples import SAMPLES, sample


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / "cache"))


def tar_of(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, raw in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return buffer.getvalue()


def zip_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, raw in members.items():
            bundle.writestr(name, raw)
    return buffer.getvalue()


def deb_of(members: dict[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, raw in members.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(raw):<10}".encode() + b"`\n"
        out += header + raw + b"\n" * (len(raw) % 2)
    return out


def idx(array: np.ndarray) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def vader_archive(text_by_file: dict[str, str]) -> bytes:
    inner = tar_of({f"hutto_ICWSM_2014/{name}": raw.encode() for name, raw in text_by_file.items()})
    return tar_of({"vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": inner})


RATED = (
    '1\t2.5\tA joy, "really".\r\n2\t-0.49\tIt exists.\r\n'
    "3_1\t-0.5\tDull\tand long.\r\n4\t0.5\tOkay.\r\n"
)


class TestArchives:
    def test_a_tar_member_is_read_by_name(self) -> None:
        raw = tar_of({"a/one.txt": b"1", "a/two.txt": b"22"})
        assert tar_member(raw, "a/two.txt", archive="t", limit=10) == b"22"

    def test_missing_and_oversized_members_are_refused(self) -> None:
        raw = tar_of({"a": b"12345"})
        with pytest.raises(DataError, match="no member b"):
            tar_member(raw, "b", archive="t", limit=10)
        with pytest.raises(DataError, match="5 bytes, more than the 4"):
            tar_member(raw, "a", archive="t", limit=4)

    def test_a_link_in_a_tar_is_not_followed(self) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            info = tarfile.TarInfo("a")
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
            tar.addfile(info)
        with pytest.raises(DataError, match="no plain file"):
            tar_member(buffer.getvalue(), "a", archive="t", limit=10)

    @pytest.mark.parametrize("cut", [0, 1, 30, 100])
    def test_a_cut_tar_is_an_error_of_ours(self, cut: int) -> None:
        raw = tar_of({"a": bytes(range(256)) * 40})
        with pytest.raises(DataError):
            tar_member(raw[:cut], "a", archive="t", limit=10**6)

    def test_a_zip_member_and_its_failures(self) -> None:
        raw = zip_of({"a": b"123"})
        assert zip_member(raw, "a", archive="z", limit=3) == b"123"
        with pytest.raises(DataError, match="no member b"):
            zip_member(raw, "b", archive="z", limit=3)
        with pytest.raises(DataError, match="more than the 2"):
            zip_member(raw, "a", archive="z", limit=2)
        with pytest.raises(DataError, match="damaged"):
            zip_member(raw[:-10], "a", archive="z", limit=3)

    def test_the_data_of_a_debian_package(self) -> None:
        raw = deb_of({"debian-binary": b"2.0", "control.tar.xz": b"c", "data.tar.xz": b"data"})
        assert deb_data(raw, archive="p.deb") == b"data"

    @pytest.mark.parametrize("raw", [b"", b"!<arch>\n", b"PK\x03\x04", b"!<arch>\n" + b"x" * 80])
    def test_no_debian_package(self, raw: bytes) -> None:
        with pytest.raises(DataError, match=r"p\.deb is no whole Debian package"):
            deb_data(raw, archive="p.deb")

    def test_gunzip_keeps_its_limit_and_sees_damage(self) -> None:
        raw = gzip.compress(b"0" * 1000)
        assert gunzip(raw, archive="g", limit=1000) == b"0" * 1000
        with pytest.raises(DataError, match="more than the 999"):
            gunzip(raw, archive="g", limit=999)
        with pytest.raises(DataError, match="cut short"):
            gunzip(raw[:-4], archive="g", limit=1000)
        with pytest.raises(DataError, match="damaged"):
            gunzip(b"no gzip at all", archive="g", limit=1000)


class TestSentiment:
    @pytest.mark.parametrize(
        ("valence", "label"),
        [
            (0.5, "positive"),
            (0.4999, None),
            (0.0, None),
            (-0.4999, None),
            (-0.5, "negative"),
            (4, "positive"),
        ],
    )
    def test_the_rule(self, valence: float, label: str | None) -> None:
        assert sentiment_label(valence) == label

    def test_rows_keep_tabs_quotes_and_other_line_separators(self) -> None:
        rows = read_valences('1\t1.0\ta\tb \u2028 \x85 "c"\r\n'.encode(), "f.txt")
        assert rows == [(1.0, 'a\tb \u2028 \x85 "c"')]

    @pytest.mark.parametrize("line", ["no tabs", "1\tx\ttext", "1\t4.5\ttext", "1\tnan\ttext"])
    def test_a_bad_line_is_named(self, line: str) -> None:
        with pytest.raises(DataError, match=r"f\.txt, line 2"):
            read_valences(f"1\t1.0\tgood\n{line}\n".encode(), "f.txt")

    def test_not_utf8(self) -> None:
        with pytest.raises(DataError, match=r"f\.txt is not UTF-8 at byte 6"):
            read_valences(b"1\t1.0\t\xff\n", "f.txt")

    def test_four_tables_without_neutral_rows(self) -> None:
        tables, neutral = sentiment_tables(vader_archive(dict.fromkeys(DOMAINS.values(), RATED)))
        assert set(tables) == set(DOMAINS)
        assert set(neutral.values()) == {1}
        assert tables["tweets"] == (
            ("text", "label"),
            [
                ('A joy, "really".', "positive"),
                ("Dull\tand long.", "negative"),
                ("Okay.", "positive"),
            ],
        )

    def test_csv_survives_a_round_trip(self, tmp_path: Path) -> None:
        import csv

        rows = [('a "b", c', "positive"), ("two\tparts", "negative")]
        write_csv(tmp_path / "t.csv", ("text", "label"), rows)
        with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as handle:
            assert [tuple(row) for row in csv.reader(handle)] == [("text", "label"), *rows]
        assert b"\r" not in (tmp_path / "t.csv").read_bytes()


def recbole_wheel(**changes: str) -> bytes:
    stem = "recbole/dataset_example/ml-100k/ml-100k"
    files = {
        "inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t7\t5\t881\n",
        "item": "item_id:token\ttitle\tyear\tclass\n7\tToy Story\t1995\tComedy Children's\n",
        "user": "user_id:token\tage\tgender\toccupation\tzip\n1\t24\tM\ttechnician\t85711\n",
        **changes,
    }
    return zip_of({f"{stem}.{suffix}": text.encode() for suffix, text in files.items()})


class TestMovielens:
    def test_plain_column_names_and_unchanged_values(self) -> None:
        tables = movielens_tables(recbole_wheel())
        assert tables["interactions"] == (
            ("user_id", "item_id", "rating", "timestamp"),
            [("1", "7", "5", "881")],
        )
        assert tables["items"][1] == [("7", "Toy Story", "1995", "Comedy Children's")]
        assert tables["users"][0] == ("user_id", "age", "gender", "occupation", "zip_code")

    def test_a_row_of_another_width_is_named(self) -> None:
        with pytest.raises(DataError, match=r"ml-100k\.inter, line 2: expected 4 columns, got 2"):
            movielens_tables(recbole_wheel(inter="a\tb\tc\td\n1\t2\n"))


class TestPictures:
    def test_idx_is_decoded(self) -> None:
        array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
        assert np.array_equal(read_idx(idx(array), "i"), array)

    @pytest.mark.parametrize(
        "raw", [b"", b"\x00\x00\x08", b"\x00\x00\x0d\x01\x00\x00\x00\x00", b"\x00\x00\x08\x02\x00"]
    )
    def test_what_is_no_idx_is_refused(self, raw: bytes) -> None:
        with pytest.raises(DataError):
            read_idx(raw, "i")

    def test_a_false_length_is_refused(self) -> None:
        with pytest.raises(DataError, match="must have 6 values, got 5"):
            read_idx(idx(np.zeros((2, 3)))[:-1], "i")

    @pytest.mark.parametrize("count", [3, 7, 10, 55, 99])
    def test_a_part_keeps_the_shares(self, count: int) -> None:
        labels_N = np.repeat([0, 1, 2], [70, 25, 5])
        chosen = stratified(labels_N, count, name="t")
        assert len(chosen) == len(set(chosen.tolist())) == count
        sizes = np.bincount(labels_N[chosen], minlength=3)
        assert (sizes >= 1).all()
        assert np.abs(sizes - count * np.array([0.7, 0.25, 0.05])).max() <= 2
        assert np.array_equal(chosen, stratified(labels_N, count, name="t"))

    def test_too_small_a_part_is_refused(self) -> None:
        pictures = Pictures(np.zeros((4, 2, 2), np.uint8), np.array([0, 0, 1, 1]), ("a", "b"))
        assert len(limited(pictures, 9, name="t").labels_N) == 4
        with pytest.raises(UsageError, match="leaves 1 images for t, which has 2 classes"):
            limited(pictures, 1, name="t")

    def test_the_digest_ignores_order_and_sees_any_change(self) -> None:
        rng = np.random.default_rng(0)
        images_NHW = rng.integers(0, 256, (6, 4, 4), dtype=np.uint8)
        labels_N = np.array([0, 1, 2, 0, 1, 2])

        def digest(order: list[int], images: np.ndarray, labels: np.ndarray) -> str:
            return fashion.content_digest(
                {"train": Pictures(images[order], labels[order], ("a", "b", "c"))}
            )

        base = digest([0, 1, 2, 3, 4, 5], images_NHW, labels_N)
        assert digest([5, 3, 1, 0, 2, 4], images_NHW, labels_N) == base
        changed = images_NHW.copy()
        changed[2, 1, 1] ^= 1
        assert digest([0, 1, 2, 3, 4, 5], changed, labels_N) != base
        assert digest([0, 1, 2, 3, 4, 5], images_NHW, labels_N[::-1]) != base


def fashion_deb() -> tuple[bytes, str]:
    rng = np.random.default_rng(1)
    members: dict[str, bytes] = {}
    splits = {}
    for split, stem, count in (("train", "train", 120), ("test", "t10k", 20)):
        images_NHW = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels_N = np.arange(count) % 10
        folder = "./usr/share/datasets/fashion-mnist"
        members[f"{folder}/{stem}-images-idx3-ubyte.gz"] = gzip.compress(idx(images_NHW))
        members[f"{folder}/{stem}-labels-idx1-ubyte.gz"] = gzip.compress(idx(labels_N))
        splits[split] = Pictures(images_NHW, labels_N, fashion.FASHION_CLASSES)
    raw = deb_of({"debian-binary": b"2.0\n", "data.tar.xz": tar_of(members, "w:xz")})
    return raw, fashion.content_digest(splits)


class TestFashion:
    @pytest.fixture
    def deb(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bytes:
        raw, digest = fashion_deb()
        monkeypatch.setattr(fashion, "FASHION_DIGEST", digest)
        monkeypatch.setattr(fashion, "_FOLDER_ON_DISK", tmp_path / "nowhere")
        return raw

    def test_an_image_folder_from_a_debian_package(
        self, deb: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        calls: list[str] = []
        monkeypatch.setattr(fashion, "fetch_apt", lambda name: calls.append(name) or deb)
        result = sample("fashion-mnist", tmp_path / "f")
        assert result.counts == {"train": 120, "test": 20}
        assert len(list((tmp_path / "f" / "train" / "Ankle_boot").glob("*.png"))) == 12
        with Image.open(next((tmp_path / "f" / "test" / "Bag").glob("*.png"))) as image:
            assert (image.size, image.mode) == ((28, 28), "L")
        part = sample("fashion-mnist", tmp_path / "g", rows=84)
        assert part.counts == {"train": 72, "test": 12}
        assert calls == ["dataset-fashion-mnist"], "the second call is served from the cache"

    def test_other_images_are_refused(
        self, deb: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(fashion, "FASHION_DIGEST", "0" * 64)
        monkeypatch.setattr(fashion, "fetch_apt", lambda name: deb)
        with pytest.raises(DataError, match=r"dataset-fashion-mnist is refused: the SHA-256"):
            sample("fashion-mnist", tmp_path / "f")
        assert not (tmp_path / "f").exists()

    def test_every_source_tells_why_it_was_not_reached(
        self, deb: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        import datasets

        def fail(*_: object, **__: object) -> None:
            raise ConnectionError("no route")

        monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
        monkeypatch.setattr(datasets, "load_dataset", fail)
        with pytest.raises(DataError, match=r"Debian: .*apt-get.* Hub: .*no route"):
            sample("fashion-mnist", tmp_path / "f")


class TestFetching:
    PAYLOAD = b"the file"

    def file(self) -> fetch.PipFile:
        digest = hashlib.sha256(self.PAYLOAD).hexdigest()
        return fetch.PipFile("thing", "1.0", "thing-1.0.tar.gz", digest, wheel=False)

    def pip(
        self, monkeypatch: pytest.MonkeyPatch, *, code: int = 0, told: str = "", raw: bytes = b""
    ) -> list[list[str]]:
        calls: list[list[str]] = []

        def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
            calls.append(command)
            if code == 0 and raw:
                (cwd / "thing-1.0.tar.gz").write_bytes(raw)
            return subprocess.CompletedProcess(command, code, "", told)

        monkeypatch.setattr(fetch, "_run", run)
        return calls

    def test_pip_is_told_the_hash_and_the_file_is_kept(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = self.pip(monkeypatch, raw=self.PAYLOAD)
        assert fetch.fetch_pip(self.file()) == self.PAYLOAD
        assert fetch.fetch_pip(self.file()) == self.PAYLOAD
        assert len(calls) == 1
        assert "--require-hashes" in calls[0]
        assert self.file().requirement.startswith("thing==1.0 --hash=sha256:")

    def test_a_damaged_cached_file_is_fetched_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = self.pip(monkeypatch, raw=self.PAYLOAD)
        fetch.fetch_pip(self.file())
        (fetch.cache_folder() / "thing-1.0.tar.gz").write_bytes(b"rotten")
        assert fetch.fetch_pip(self.file()) == self.PAYLOAD
        assert len(calls) == 2

    def test_another_file_is_refused_and_not_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pip(monkeypatch, raw=b"another file")
        with pytest.raises(DataError, match=r"thing-1\.0\.tar\.gz is refused: its SHA-256 must be"):
            fetch.fetch_pip(self.file())
        assert not fetch.cache_folder().exists()

    @pytest.mark.parametrize(
        ("told", "said"),
        [
            ("/usr/bin/python: No module named pip", "ensurepip"),
            ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "is refused"),
            ("WARNING: x\nERROR: Could not find a version", "Could not find a version. Check the"),
            ("", "no reason was given"),
        ],
    )
    def test_what_pip_says_becomes_a_message_with_a_cure(
        self, monkeypatch: pytest.MonkeyPatch, told: str, said: str
    ) -> None:
        self.pip(monkeypatch, code=1, told=told)
        with pytest.raises(DataError, match=said):
            fetch.fetch_pip(self.file())

    def test_pip_that_brings_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pip(monkeypatch)
        with pytest.raises(DataError, match=r"was to bring thing-1\.0\.tar\.gz"):
            fetch.fetch_pip(self.file())


class TestPublishing:
    def test_digits_are_an_image_folder(self, tmp_path: Path) -> None:
        result = sample("digits", tmp_path / "d", rows=100)
        assert result.rows == 100
        assert len(list((tmp_path / "d").glob("?/*.png"))) == 100
        assert result.paths == (tmp_path / "d",)
        with Image.open(next((tmp_path / "d" / "0").glob("*.png"))) as image:
            assert image.size == (8, 8)
            assert image.getextrema()[1] == 255
        readme = (tmp_path / "d" / "README.txt").read_text(encoding="utf-8")
        assert "100 of 1,797 images" in readme
        assert "Licence: Creative Commons" in readme
        verify_manifest(tmp_path / "d")

    def test_tables_with_their_rule_beside_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        raw = vader_archive(dict.fromkeys(DOMAINS.values(), RATED))
        monkeypatch.setattr(samples, "fetch_pip", lambda file: raw)
        result = sample("sentiment", tmp_path / "s")
        assert result.counts == dict.fromkeys(DOMAINS, 3)
        assert [path.name for path in result.paths] == [f"{domain}.csv" for domain in DOMAINS]
        assert "closer to zero than 0.5" in (tmp_path / "s" / "README.txt").read_text()
        assert (tmp_path / "s" / "tweets.csv").read_text().splitlines()[0] == "text,label"

    def test_movielens_is_three_tables(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(samples, "fetch_pip", lambda file: recbole_wheel())
        result = sample("movielens-100k", tmp_path / "m")
        assert result.rows == 1
        assert (tmp_path / "m" / "items.csv").read_text() == (
            "item_id,title,year,genres\n7,Toy Story,1995,Comedy Children's\n"
        )
        assert "no commercial use" in result.licence

    def test_an_unknown_name_gets_the_nearest(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match='Did you mean "sentiment"'):
            sample("sentimnt", tmp_path / "d")

    def test_rows_must_fit_the_sample(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="image samples"):
            sample("sentiment", tmp_path / "d", rows=10)
        with pytest.raises(UsageError, match="at least 1, got 0"):
            sample("digits", tmp_path / "d", rows=0)

    def test_a_taken_folder_is_refused_and_force_replaces_only_samples(
        self, tmp_path: Path
    ) -> None:
        sample("digits", tmp_path / "d", rows=20)
        with pytest.raises(DataError, match="is not empty"):
            sample("digits", tmp_path / "d", rows=30)
        assert sample("digits", tmp_path / "d", rows=30, force=True).rows == 30
        (tmp_path / "d" / "mine.txt").write_text("keep me")
        with pytest.raises(DataError, match=r"holds mine\.txt, which no sample wrote"):
            sample("digits", tmp_path / "d", force=True)
        (tmp_path / "own").mkdir()
        (tmp_path / "own" / "thesis.txt").write_text("keep me")
        with pytest.raises(DataError, match=r"holds thesis\.txt"):
            sample("digits", tmp_path / "own", force=True)
        assert (tmp_path / "own" / "thesis.txt").read_text() == "keep me"

    def test_an_empty_folder_is_used_and_a_file_refused(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        assert sample("digits", tmp_path / "d", rows=20).rows == 20
        (tmp_path / "f").write_text("")
        with pytest.raises(DataError, match="is a file"):
            sample("digits", tmp_path / "f")

    def test_if_missing_keeps_what_is_whole(self, tmp_path: Path) -> None:
        first = sample("digits", tmp_path / "d", rows=20)
        assert sample("digits", tmp_path / "d", if_missing=True) == first
        with pytest.raises(DataError, match="holds digits, not sentiment"):
            sample("sentiment", tmp_path / "d", if_missing=True)
        next((tmp_path / "d" / "3").glob("*.png")).write_bytes(b"rot")
        with pytest.raises(DataError, match="is damaged"):
            sample("digits", tmp_path / "d", if_missing=True)

    def test_a_failure_leaves_no_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(file: fetch.PipFile) -> bytes:
            raise DataError("no network")

        monkeypatch.setattr(samples, "fetch_pip", fail)
        with pytest.raises(DataError, match="no network"):
            sample("sentiment", tmp_path / "s")
        assert list(tmp_path.iterdir()) == []

    def test_each_sample_states_its_licence_and_size(self) -> None:
        assert set(SAMPLES) == {"sentiment", "movielens-100k", "fashion-mnist", "digits"}
        assert all(item.licence and item.size and item.description for item in SAMPLES.values())
