"""Whatever is changed, removed or reordered under a trusted checkpoint is found."""

import shutil
import zlib
from pathlib import Path

import pytest

from demur.monitor.audit import Record
from demur.monitor.audit.frame import Frame, decode
from demur.monitor.audit.note import Checkpoint, Signer
from demur.monitor.audit.segment import Cursor, Entry
from demur.monitor.audit.tiles import Tree
from demur.monitor.audit.verify import verify_log

from .conftest import ORIGIN, Opener


def files(directory: Path) -> list[Path]:
    return sorted(p for p in directory.rglob("*") if p.is_file())


def test_a_sound_log_verifies(small: Path, signer: Signer) -> None:
    report = verify_log(small, [signer.verifier])
    assert report.ok, report.problems
    assert (report.size, report.covered, report.uncovered, report.blocks, report.trusted) == (4, 4, 0, 1, True)
    assert verify_log(small).ok
    assert not verify_log(small).trusted


def test_every_single_flipped_bit_of_every_file_is_found(tiny: Path, signer: Signer) -> None:
    names = {p.relative_to(tiny).as_posix() for p in files(tiny)}
    assert {"checkpoint", "key.pub", "tile/0/000.p/3", "tile/entries/000.p/3", f"journal/{0:020d}.journal"} <= names
    flips = missed = 0
    for path in files(tiny):
        sound = path.read_bytes()
        with path.open("r+b", buffering=0) as file:
            for bit in range(len(sound) * 8):
                at = bit // 8
                file.seek(at)
                file.write(bytes([sound[at] ^ 1 << bit % 8]))
                missed += verify_log(tiny, [signer.verifier]).ok
                flips += 1
                file.seek(at)
                file.write(sound[at : at + 1])
    assert flips > 20_000
    assert missed == 0
    assert verify_log(tiny, [signer.verifier]).ok


def test_every_missing_or_shortened_file_is_found(small: Path, signer: Signer) -> None:
    for path in files(small):
        if path.name == "lock":
            continue
        sound = path.read_bytes()
        for remains in (None, b"", sound[:-1], sound + b"\0"):
            if remains is None:
                path.unlink()
            else:
                path.write_bytes(remains)
            report = verify_log(small, [signer.verifier])
            # bytes appended behind the last covered record are a torn tail, reported but no contradiction
            assert not report.ok or (path.suffix == ".journal" and report.tail_bytes == 1), (path, remains)
            path.write_bytes(sound)


def frames(directory: Path) -> list[Frame]:
    return [item.frame for item in Cursor(directory).read() if isinstance(item, Entry)]


def rewrite(directory: Path, leaves: list[tuple[bytes, bytes]], signer: Signer | None = None) -> None:
    """A forger's work: a journal and tiles that agree with each other, and with a checkpoint if he has the key."""
    journal, tree, data = directory / "journal" / f"{0:020d}.journal", Tree(), b""
    for i, (leaf, block) in enumerate(leaves):
        data += Frame(i, len(data), leaf, block).encode()
        tree.append(leaf)
    journal.write_bytes(data)
    shutil.rmtree(directory / "tile")
    for tile in tree.edge():
        path = directory / tile.path
        path.parent.mkdir(parents=True)
        path.write_bytes(tile.data())
    if signer:
        (directory / "checkpoint").write_bytes(signer.sign(Checkpoint(ORIGIN, tree.size, tree.root()).text()))


@pytest.mark.parametrize("edit", ["remove", "swap", "change", "insert", "block"])
def test_rewritten_history_is_found_however_consistent_it_is(small: Path, signer: Signer, edit: str) -> None:
    parts = [(f.leaf, f.block) for f in frames(small)]
    renumber = lambda leaf, n: leaf_with(leaf, sequence=n)  # noqa: E731
    if edit == "remove":
        parts = [(renumber(leaf, i), block) for i, (leaf, block) in enumerate(parts[:1] + parts[2:])]
    elif edit == "swap":
        parts = [(renumber(leaf, i), block) for i, (leaf, block) in enumerate([parts[0], parts[2], parts[1], parts[3]])]
    elif edit == "change":
        parts[1] = (parts[1][0].replace(b'"accepted":1', b'"accepted":2'), parts[1][1])
    elif edit == "insert":
        parts = [(renumber(leaf, i), block) for i, (leaf, block) in enumerate([*parts[:2], *parts[1:]])]
    else:
        parts[1] = (parts[1][0], b"another block")
    rewrite(small, parts)
    assert not verify_log(small, [signer.verifier]).ok


def leaf_with(leaf: bytes, sequence: int) -> bytes:
    record = Record.parse(leaf)
    return record.leaf_at(sequence, record.time_ns, record.clock_max_ns)


def test_a_key_holder_is_found_only_against_a_checkpoint_kept_elsewhere(small: Path, signer: Signer) -> None:
    kept = (small / "checkpoint").read_bytes()
    parts = [(f.leaf, f.block) for f in frames(small)]
    parts[1] = (parts[1][0].replace(b'"accepted":1', b'"accepted":2'), parts[1][1])
    rewrite(small, parts, signer)
    assert verify_log(small, [signer.verifier]).ok
    report = verify_log(small, [signer.verifier], expect=kept)
    assert any("expected checkpoint" in p for p in report.problems)


def test_a_rollback_is_found_only_with_expect(tmp_path: Path, opened: Opener, signer: Signer) -> None:
    notes: list[bytes] = []
    log = opened(tmp_path / "log", exports=[notes.append])
    log.append(Record(kind="verdict", monitor="m")).wait(10)
    log.close()
    shutil.copytree(log.directory, tmp_path / "old")
    early = notes[-1]
    again = opened(log.directory, exports=[notes.append])
    again.append(Record(kind="verdict", monitor="m", note="inconvenient")).wait(10)
    again.close()
    late = notes[-1]
    assert verify_log(log.directory, [signer.verifier], expect=early).ok
    assert verify_log(log.directory, [signer.verifier], expect=late).ok
    assert verify_log(tmp_path / "old", [signer.verifier]).ok
    rolled = verify_log(tmp_path / "old", [signer.verifier], expect=late)
    assert any("rolled back" in p for p in rolled.problems)
    assert verify_log(tmp_path / "old", [signer.verifier], expect=early).ok


def test_an_expected_checkpoint_must_be_signed_and_of_this_log(small: Path, signer: Signer) -> None:
    kept = (small / "checkpoint").read_bytes()
    assert not verify_log(small, [signer.verifier], expect=kept.replace(b"\n4\n", b"\n3\n")).ok
    other = signer.sign(Checkpoint("another/log", 0, Tree().root()).text())
    assert any("another/log" in p for p in verify_log(small, [signer.verifier], expect=other).problems)


def test_a_foreign_key_is_not_trusted(small: Path) -> None:
    stranger = Signer("stranger", bytes(32))
    report = verify_log(small, [stranger.verifier])
    assert any("trusted" in p for p in report.problems)


def test_files_that_do_not_belong_are_named(small: Path, signer: Signer) -> None:
    for name in ("tile/0/001", "tile/9/000", "tile/readme", "journal/notes.txt"):
        path = small / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        assert any(Path(name).name in p for p in verify_log(small, [signer.verifier]).problems), name
        path.unlink()


def test_a_changed_tile_is_not_missing(small: Path, signer: Signer) -> None:
    path = small / "tile/0/000.p/4"
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    assert verify_log(small, [signer.verifier]).problems == ("tile/0/000.p/4: differs from the journal",)
    path.unlink()
    assert verify_log(small, [signer.verifier]).problems == ("tile/0/000.p/4: missing, the checkpoint needs it",)


def test_nothing_the_folder_holds_makes_verify_raise(tmp_path: Path) -> None:
    for name in ("checkpoint", "key.pub", "journal"):
        (tmp_path / name).mkdir()
    assert not verify_log(tmp_path).ok
    assert not verify_log(tmp_path / "absent").ok


def test_full_tiles_of_a_longer_log_are_checked(tmp_path: Path, opened: Opener, signer: Signer) -> None:
    log = opened(tmp_path, segment_bytes=64 << 10)
    for i in range(600):
        last = log.append(Record(kind="verdict", monitor="m", request=str(i)))
    last.wait(20)
    log.checkpoint()
    log.close()
    assert len(list((tmp_path / "journal").iterdir())) >= 2
    assert verify_log(tmp_path, [signer.verifier]).ok
    for path in (p for p in files(tmp_path) if p.stat().st_size):
        sound = path.read_bytes()
        for at in (0, len(sound) // 2, len(sound) - 1):
            path.write_bytes(sound[:at] + bytes([sound[at] ^ 64]) + sound[at + 1 :])
            assert not verify_log(tmp_path, [signer.verifier]).ok, (path, at)
        path.unlink()
        assert not verify_log(tmp_path, [signer.verifier]).ok or ".p/" in str(path), path
        path.write_bytes(sound)


def test_a_frame_is_only_what_its_checksum_says() -> None:
    data = Frame(3, 0, b"leaf", b"block").encode()
    assert decode(data) == Frame(3, 0, b"leaf", b"block")
    assert zlib.crc32(data[:-4]).to_bytes(4, "little") == data[-4:]
