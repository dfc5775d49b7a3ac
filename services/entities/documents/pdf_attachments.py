"""Attachments of PDF/A-3 files.

A file is attached by an incremental update: objects are appended, everything before stays as it is. Writing a PDF of
10,000 rows anew takes pypdf 20 seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from typing import Final, cast

from pypdf import PdfReader
from pypdf.generic import (
    ArrayObject,
    DecodedStreamObject,
    DictionaryObject,
    IndirectObject,
    NameObject,
    NumberObject,
    PdfObject,
    StreamObject,
    TextStringObject,
)

_TRAILER: Final = ("/Root", "/Info", "/ID")
"""Entries of the trailer that stay as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A file inside a PDF that has the same content in another format (AFRelationship Alternative)."""

    name: str
    content: bytes
    media_type: str
    description: str
    modified: datetime


def attach(pdf: bytes, attachment: Attachment, metadata: Callable[[bytes], bytes]) -> bytes:
    """Return the PDF with an attachment and with the metadata (XMP) that `metadata` returns for those of the PDF.

    Raises ValueError if the PDF has no metadata, as PDF/A requires, has attachments, or has compressed object tables.
    """
    reader = PdfReader(BytesIO(pdf))
    root = reader.root_object
    if "/Metadata" not in root or reader.xmp_metadata is None:
        raise ValueError("the PDF has no metadata, so it is no PDF/A")
    if "/Names" in root:
        raise ValueError("the PDF has attachments already")
    size = cast("int", reader.trailer["/Size"])
    stream, file = IndirectObject(size, 0, reader), IndirectObject(size + 1, 0, reader)
    names = _dictionary(EmbeddedFiles=_dictionary(Names=ArrayObject([TextStringObject(attachment.name), file])))
    xmp = DecodedStreamObject()
    xmp.update(_dictionary(Type=NameObject("/Metadata"), Subtype=NameObject("/XML")))
    xmp.set_data(metadata(reader.xmp_metadata.stream.get_data()))
    return _updated(
        pdf,
        reader.trailer,
        {
            root.raw_get("/Metadata").idnum: xmp,
            reader.trailer.raw_get("/Root").idnum: DictionaryObject(
                {**root, **_dictionary(AF=ArrayObject([file]), Names=names)}
            ),
            stream.idnum: _stream(attachment),
            file.idnum: _file(attachment, stream),
        },
    )


def _stream(attachment: Attachment) -> StreamObject:
    data = DecodedStreamObject()
    data.set_data(attachment.content)
    stream = data.flate_encode()
    moment = f"D:{attachment.modified:%Y%m%d%H%M%S}Z"
    parameters = _dictionary(Size=NumberObject(len(attachment.content)), ModDate=TextStringObject(moment))
    subtype = NameObject(f"/{attachment.media_type}")
    stream.update(_dictionary(Type=NameObject("/EmbeddedFile"), Subtype=subtype, Params=parameters))
    return stream


def _file(attachment: Attachment, stream: IndirectObject) -> DictionaryObject:
    name = TextStringObject(attachment.name)
    return _dictionary(
        Type=NameObject("/Filespec"),
        F=name,
        UF=name,
        EF=_dictionary(F=stream, UF=stream),
        AFRelationship=NameObject("/Alternative"),
        Desc=TextStringObject(attachment.description),
    )


def _dictionary(**entries: PdfObject) -> DictionaryObject:
    return DictionaryObject({NameObject(f"/{name}"): value for name, value in entries.items()})


def _updated(pdf: bytes, trailer: DictionaryObject, objects: dict[int, PdfObject]) -> bytes:
    """Return the PDF with these objects appended; those with a number that exists replace the former ones."""
    previous = int(pdf[pdf.rindex(b"startxref") + len(b"startxref") :].split()[0])
    if not pdf.startswith(b"xref", previous):
        raise ValueError("the PDF has compressed object tables")
    written = BytesIO()
    written.write(pdf.rstrip() + b"\n")
    entries = [b"0 1\n0000000000 65535 f\r\n"]
    for number, each in sorted(objects.items()):
        entries.append(b"%d 1\n%010d 00000 n\r\n" % (number, written.tell()))
        written.write(b"%d 0 obj\n" % number)
        each.write_to_stream(written)
        written.write(b"\nendobj\n")
    table = written.tell()
    written.write(b"xref\n" + b"".join(entries) + b"trailer\n")
    _dictionary(
        Size=NumberObject(max(objects) + 1),
        Prev=NumberObject(previous),
        **{name[1:]: trailer.raw_get(name) for name in _TRAILER if name in trailer},
    ).write_to_stream(written)
    written.write(b"\nstartxref\n%d\n%%%%EOF\n" % table)
    return written.getvalue()
