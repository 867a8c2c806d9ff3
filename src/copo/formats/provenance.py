"""The machine-readable mark that a picture or a mesh was made by a program, with its factors and seed.

The mark is IPTC's `DigitalSourceType` in an XMP packet (IPTC Photo Metadata Standard 2023.1; the values are those of
the IPTC NewsCodes of the same name), which platforms read to label generated pictures. Beside it stands free metadata
as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from xml.sax.saxutils import escape, unescape

from copo.errors import CopoError, unknown_name

SourceType = Literal[
    "trainedAlgorithmicMedia",
    "compositeWithTrainedAlgorithmicMedia",
    "compositeSynthetic",
    "algorithmicMedia",
]
SOURCE_TYPES: dict[str, str] = {
    "trainedAlgorithmicMedia": "AI-generated picture: no photograph of this scene exists",
    "compositeWithTrainedAlgorithmicMedia": "Photograph edited with generative AI",
    "compositeSynthetic": "Composite with synthetic elements",
    "algorithmicMedia": "Synthetic picture computed by a program, without a generative network",
}
"""IPTC digital source types that CoPo writes: portraits of the generator, edited photographs, sheets that put
photographs and synthetic pictures side by side, and plain renderings of a head model."""

NEWSCODES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SOFTWARE = "CoPo"
JSON_KEY = "copo"
"""Key of the JSON metadata in files that have named text entries (PNG text, glTF extras)."""


@dataclass(frozen=True)
class Provenance:
    """What a file says about its origin.

    Attributes:
        source_type: IPTC digital source type, a key of SOURCE_TYPES; None for a file without a mark.
        metadata: Anything JSON can hold: factors, seed, camera, command.
    """

    source_type: str | None = "trainedAlgorithmicMedia"
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """One line for people."""
        return SOURCE_TYPES.get(self.source_type or "", "")

    def json(self) -> str:
        """The metadata as one line of ASCII JSON.

        Raises:
            CopoError: The metadata holds something that JSON cannot express, such as a tensor or a NaN.
        """
        try:
            return json.dumps(dict(self.metadata), separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise CopoError(f"metadata cannot be written as JSON: {error}; use numbers, texts, lists") from error

    def uri(self) -> str:
        """The IPTC code of the source type.

        Raises:
            CopoError: It is not one that CoPo writes.
        """
        if self.source_type not in SOURCE_TYPES:
            raise unknown_name("digital source type", str(self.source_type), SOURCE_TYPES)
        return NEWSCODES + self.source_type

    def comment_lines(self) -> list[str]:
        """The mark as lines of a text header (PLY, OBJ), ASCII."""
        mark = [f"Software: {SOFTWARE}", f"DigitalSourceType: {self.uri()}", self.description]
        return [*mark, f"{JSON_KEY}: {self.json()}"]

    def xmp(self) -> bytes:
        """The XMP packet, UTF-8."""
        return (
            '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            '<rdf:Description rdf:about=""'
            ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
            ' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:copo="urn:copo:metadata:1">'
            f"<Iptc4xmpExt:DigitalSourceType>{self.uri()}</Iptc4xmpExt:DigitalSourceType>"
            f"<xmp:CreatorTool>{SOFTWARE}</xmp:CreatorTool>"
            f"<copo:json>{escape(self.json())}</copo:json>"
            '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
        ).encode()

    @classmethod
    def from_xmp(cls, packet: bytes) -> Provenance:
        """Read the mark from an XMP packet, ours or another program's (element or attribute form).

        Only these two entries are looked for, as text: the packet of an untrusted file never meets an XML parser.
        """
        text = packet.decode("utf-8", "replace")
        source = re.search(r"DigitalSourceType\s*(?:=\s*[\"']|>)\s*(?:https?://[^\s\"'<]*/)?(\w+)", text)
        stored = re.search(r"<copo:json>(.*?)</copo:json>", text, re.DOTALL)
        return cls(source.group(1) if source else None, parse_metadata(unescape(stored.group(1))) if stored else {})


def parse_metadata(text: str) -> dict[str, Any]:
    """Read JSON metadata; whatever is not a JSON object counts as none."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
