"""Files of any format that needs no settings, told by how they begin."""

from collections.abc import Iterable, Iterator
from typing import Literal

from lepton_etl.ingest.decoded import Decoded, Origin, only_reject
from lepton_etl.ingest.registry import LogFormat, formats, log_format, recognise
from lepton_etl.ingest.text import drain, in_utf8, peek


@log_format
class Auto(LogFormat):
    """Whatever a file's content shows it to be, of the formats that need no settings."""

    format: Literal["auto"] = "auto"
    subjects = ("devices", "jobs")

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Read a text by the one format that claims its beginning, with that format's defaults.

        A text that no format claims, or more than one, is one reject (unknown_format).
        """
        head, stream = peek(in_utf8(chunks))
        names = recognise(head)
        if len(names) == 1:
            yield from formats()[names[0]]().read(stream, origin)
            return
        drain(stream)
        shown = head[:200].decode("utf-8", "replace")
        yield only_reject("unknown_format", f"{' or '.join(names) or 'no known format'}: {shown}")
