"""Reading single members of tar, zip and Debian archives in memory; nothing is unpacked to disk.

Members are asked for by name, must be plain files and have a size limit, so neither a path, a link
nor a decompression bomb inside an archive reaches the file system or the memory.
"""

from __future__ import annotations

import io
import lzma
import tarfile
import zipfile
import zlib

from warmstart.core import DataError

__all__ = ["deb_data", "gunzip", "tar_member", "zip_member"]

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60


def tar_member(raw: bytes, name: str, *, archive: str, limit: int) -> bytes:
    """One plain file of a tar archive (gzip, xz or uncompressed).

    Args:
        raw: The archive.
        name: The member's exact name; a leading `./` in the archive is ignored.
        archive: What to call the archive in messages.
        limit: Largest size in bytes that is read.

    Raises:
        DataError: When the archive is damaged, the member is missing, is no plain file or too big.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:*") as tar:
            for info in tar:
                if info.name.removeprefix("./") != name:
                    continue
                if not info.isreg():
                    raise DataError(f"{archive}: {name} is no plain file and is not read.")
                _check_size(info.size, limit, archive, name)
                handle = tar.extractfile(info)
                data = handle.read(limit + 1) if handle else b""
                if len(data) != info.size:
                    raise DataError(f"{archive}: {name} is cut short. Fetch the archive again.")
                return data
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{archive} is damaged: {error}. Fetch it again.") from None
    raise DataError(f"{archive} has no member {name}; it is not the archive expected here.")


def zip_member(raw: bytes, name: str, *, archive: str, limit: int) -> bytes:
    """One plain file of a zip archive such as a wheel; arguments as for `tar_member`.

    Raises:
        DataError: When the archive is damaged, the member is missing or too big.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as bundle:
            info = bundle.getinfo(name)
            _check_size(info.file_size, limit, archive, name)
            with bundle.open(info) as handle:
                data = handle.read(limit + 1)
    except KeyError:
        raise DataError(
            f"{archive} has no member {name}; it is not the archive expected here."
        ) from None
    except (zipfile.BadZipFile, EOFError, OSError, zlib.error, NotImplementedError) as error:
        raise DataError(f"{archive} is damaged: {error}. Fetch it again.") from None
    _check_size(len(data), limit, archive, name)
    return data


def deb_data(raw: bytes, *, archive: str) -> bytes:
    """The data archive (a compressed tar) inside a Debian package, which is an `ar` archive.

    Source: deb(5), ar(5): an 8-byte magic, then per member a 60-byte header with the name in
    bytes 0-16 and the decimal size in bytes 48-58; members start at even offsets.

    Raises:
        DataError: When this is no Debian package.
    """
    position = len(_AR_MAGIC)
    while raw.startswith(_AR_MAGIC) and position + _AR_HEADER <= len(raw):
        header = raw[position : position + _AR_HEADER]
        size_text = header[48:58].strip()
        if header[58:60] != b"`\n" or not size_text.isdigit():
            break
        start, size = position + _AR_HEADER, int(size_text)
        if header[:16].strip().startswith(b"data.tar"):
            if start + size > len(raw):
                break
            return raw[start : start + size]
        position = start + size + size % 2
    raise DataError(f"{archive} is no whole Debian package. Fetch it again.")


def gunzip(raw: bytes, *, archive: str, limit: int) -> bytes:
    """Decompress gzip data of at most `limit` bytes.

    Raises:
        DataError: When the data are damaged or larger.
    """
    engine = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        data = engine.decompress(raw, limit + 1)
    except zlib.error as error:
        raise DataError(f"{archive} is damaged: {error}. Fetch it again.") from None
    _check_size(len(data), limit, archive, "its content")
    if not engine.eof:
        raise DataError(f"{archive} is cut short. Fetch it again.")
    return data


def _check_size(size: int, limit: int, archive: str, name: str) -> None:
    if size > limit:
        raise DataError(f"{archive}: {name} has {size:,} bytes, more than the {limit:,} allowed.")
