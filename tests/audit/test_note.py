"""Signed notes against the vectors of golang.org/x/mod/sumdb/note, and checkpoints as C2SP states them."""

import pytest

from demur.monitor.audit.note import Checkpoint, InvalidNote, Signer, Verifier, open_checkpoint, open_note

VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
SKEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = b"If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()
ENOCH_SIGNATURE = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
).encode()
NOTE = TEXT + b"\n" + PETER


def test_the_published_key_signs_the_published_note() -> None:
    signer = Signer.parse(SKEY)
    assert signer.sign(TEXT) == NOTE
    assert str(signer.verifier) == VKEY
    assert signer.secret() == SKEY


def test_the_published_note_verifies() -> None:
    peter, enoch = Verifier.parse(VKEY), Verifier.parse(ENOCH)
    assert open_note(NOTE, [peter]) == TEXT
    assert open_note(NOTE + ENOCH_SIGNATURE, [peter]) == TEXT
    assert open_note(NOTE + ENOCH_SIGNATURE, [peter, enoch]) == TEXT
    with pytest.raises(InvalidNote, match="trusted key"):
        open_note(NOTE, [enoch])
    with pytest.raises(InvalidNote, match="no keys"):
        open_note(NOTE, [])


@pytest.mark.parametrize(
    "note",
    [
        TEXT,
        TEXT + b"\n",
        NOTE[:-1],
        b"\x01" + NOTE,
        b"\xff" + NOTE,
        TEXT + b"\n" + "— Bad Name x08go/ZJ\n".encode(),
        NOTE + b"Unexpected line.\n",
        TEXT + b"\n" + PETER * 101,
        TEXT + b"\n" + PETER[:60] + b"ABCD" + PETER[60:],
        TEXT + b"\n" + "— PeterNeumann x08g\n".encode(),
        TEXT + b"\n" + "— PeterNeumann\n".encode(),
        NOTE[:-3] + b"N=\n",
        b"x" * (1 << 20) + NOTE,
    ],
)
def test_malformed_notes_are_refused(note: bytes) -> None:
    with pytest.raises(InvalidNote):
        open_note(note, [Verifier.parse(VKEY)])


def test_no_bit_of_a_note_is_free() -> None:
    verifier = Verifier.parse(VKEY)
    for bit in range(len(NOTE) * 8):
        flipped = bytearray(NOTE)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InvalidNote):
            open_note(bytes(flipped), [verifier])


def test_mangled_keys_are_refused() -> None:
    bad = [VKEY[i:j] for i in range(len(VKEY) + 1) for j in range(i + 1, len(VKEY) + 1) if j - i < len(VKEY)]
    bad += [VKEY[:i] + chr(ord(VKEY[i]) + 1) + VKEY[i + 1 :] for i in range(len(VKEY))]
    bad += [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ]
    for key in bad:
        with pytest.raises(InvalidNote):
            Verifier.parse(key)
    for i in range(len(SKEY)):
        with pytest.raises(InvalidNote):
            Signer.parse(SKEY[:i] + chr(ord(SKEY[i]) + 1) + SKEY[i + 1 :])
        with pytest.raises(InvalidNote):
            Signer.parse(SKEY[:i])


def test_a_signing_key_shows_its_secret_nowhere() -> None:
    assert "AYEKFALV" not in repr(Signer.parse(SKEY)) + str(Signer.parse(SKEY))
    with pytest.raises(InvalidNote) as error:
        Signer.parse(SKEY[:-1] + "!")
    assert "AYEKFALV" not in str(error.value)


def test_checkpoints_round_trip() -> None:
    signer = Signer.parse(SKEY)
    checkpoint = Checkpoint("example.com/behind-the-sofa", 20852163, bytes(range(32)))
    assert open_checkpoint(signer.sign(checkpoint.text()), [signer.verifier]) == checkpoint
    published = b"example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    assert Checkpoint.parse(published).text() == published


@pytest.mark.parametrize(
    "text",
    [
        b"o\n1\n",
        b"\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        b"o\n01\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        b"o\n-1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        b"o\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2J=\n",
        b"o\n1\nAAAA\n",
        b"o\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\nextension\n",
        b"o\n" + b"9" * 20 + b"\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
    ],
)
def test_malformed_checkpoints_are_refused(text: bytes) -> None:
    with pytest.raises(InvalidNote):
        Checkpoint.parse(text)
