"""darktable's styles (.dtstyle) and sidecars (.xmp): modules that show a table of colour on the neutral rendering.

Both files hold the parameters of modules as the bytes of C structures, of the version that they name; later versions of
darktable convert them. The module lut3d names the file of its table, relative to darktable's folder of 3D LUTs.
"""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass
from xml.sax.saxutils import escape

from paramisp_cli.errors import ConfigError

_MOST_NAME = 511
"""Bytes of a name in the parameters of lut3d, without the zero at its end."""


@dataclass(frozen=True, slots=True)
class Module:
    """A module of darktable: its name, the version and the bytes of its parameters, and whether it works."""

    operation: str
    version: int
    params: bytes
    enabled: bool = True


def modules(table: str) -> tuple[Module, ...]:
    """Return the modules of a look: lut3d with a .cube file, no exposure, and no tone mapper before it.

    table  name of the file, in darktable's folder of 3D LUTs

    Raises ConfigError for a name that is too long.
    """
    name = table.encode()
    if len(name) > _MOST_NAME:
        raise ConfigError(f"{table}: darktable's names of tables have at most {_MOST_NAME} bytes")
    # Workflows of darktable add these modules by themselves. Switched off, their parameters are darktable's defaults.
    identity = struct.pack("<4f", 0, 0, 1, 1).ljust(20 * 8, b"\0")
    base_curve = 3 * identity + struct.pack("<3i3iiffi", 2, 2, 2, 2, 2, 2, 0, 1, 1, 1)
    filmic = struct.pack(
        "<18f11i", 18.45, -7.65, 4.56, 0, 3, 100, 100, 0, 0, 18.45, 0.01517634, 100, 3.614816, 0.01, 1, 0, 0, 0.2,
        3, 3, 1, 0, 1, 1, 0, 0, 0, 2, 0,
    )  # fmt: skip
    return (
        Module("exposure", 6, struct.pack("<iffffi", 0, 0, 0, 50, -4, 0)),
        Module("basecurve", 6, base_curve, enabled=False),
        Module("filmicrgb", 6, filmic, enabled=False),
        Module("sigmoid", 1, struct.pack("<4fif", 1.5, 0, 100, 0.0152, 0, 100), enabled=False),
        # File, sRGB, tetrahedral interpolation, and no table of G'MIC inside.
        Module("lut3d", 3, struct.pack("<512siii12288s128s", name, 0, 0, 0, b"", b"")),
    )


def style(name: str, description: str, chosen: tuple[Module, ...]) -> bytes:
    """Return the text of a style (.dtstyle) of modules."""
    plugins = "".join(
        f"<plugin><num>{number}</num><module>{each.version}</module><operation>{each.operation}</operation>"
        f"<op_params>{_coded(each.params)}</op_params><enabled>{each.enabled:d}</enabled><blendop_params></blendop_params>"
        "<blendop_version>0</blendop_version><multi_priority>0</multi_priority><multi_name></multi_name></plugin>\n"
        for number, each in enumerate(chosen)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<darktable_style version="1.0">\n'
        f"<info><name>{escape(name)}</name><description>{escape(description)}</description></info>\n"
        f"<style>\n{plugins}</style>\n</darktable_style>\n"
    ).encode()


def sidecar(chosen: tuple[Module, ...]) -> bytes:
    """Return the text of a sidecar (.xmp) whose history is these modules alone, without those of a workflow."""
    steps = "".join(
        f'<rdf:li darktable:num="{number}" darktable:operation="{each.operation}" darktable:enabled="{each.enabled:d}" '
        f'darktable:modversion="{each.version}" darktable:params="{_coded(each.params)}"/>\n'
        for number, each in enumerate(chosen)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:darktable="http://darktable.sf.net/" darktable:xmp_version="5" '
        f'darktable:auto_presets_applied="1" darktable:history_end="{len(chosen)}" darktable:iop_order_version="2">'
        f"<darktable:history><rdf:Seq>\n{steps}</rdf:Seq></darktable:history></rdf:Description></rdf:RDF></x:xmpmeta>\n"
    ).encode()


def _coded(params: bytes) -> str:
    """Return parameters as darktable writes them: hexadecimal, or compressed with the factor of the compression."""
    if len(params) < 100:
        return params.hex()
    small = zlib.compress(params, 9)
    return f"gz{min(len(params) // len(small) + 1, 99):02d}{base64.b64encode(small).decode()}"
