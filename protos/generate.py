"""Generates gen/ from the protos: messages, client stubs, type stubs, and the descriptor set that the gateway reads.

Run as `python protos/generate.py [OUT [PROTOS]]`; both default to the folders of this checkout.
"""

import shutil
import sys
import sysconfig
import tempfile
from importlib.resources import files
from pathlib import Path

import grpc_tools
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from protovalidate._gen.buf.validate import validate_pb  # no release contains validate.proto itself

ROOT = Path(__file__).parent.parent
RULES = "buf/validate/validate.proto"
OPTIONS = "google/protobuf/descriptor.proto"
# The imports of the rules; protoc needs all imports of a descriptor in the same set.
WELL_KNOWN = [OPTIONS, *(f"google/protobuf/{name}.proto" for name in ("duration", "field_mask", "timestamp"))]


def main(out: Path = ROOT / "gen", protos: Path = ROOT / "protos") -> None:
    """Replace `out`; its `billing.binpb` has every descriptor with imports and comments."""
    out.parent.mkdir(parents=True, exist_ok=True)
    # Generated beside `out` and moved there when complete, so that no process imports an incomplete package.
    new = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    new.chmod(0o755)
    try:
        _generate(new, protos)
        if out.exists():
            out.rename(new.with_suffix(".old"))
        new.rename(out)
    finally:
        for leftover in (new, new.with_suffix(".old")):
            shutil.rmtree(leftover, ignore_errors=True)


def _generate(out: Path, protos: Path) -> None:
    well_known = Path(str(files(grpc_tools))) / "_proto"
    google_apis = Path(annotations_pb2.__file__).parents[2]
    rules = out / "rules.binpb"
    rules.write_bytes(_rules(well_known, out))
    sources = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    scripts = Path(sysconfig.get_path("scripts"))
    _protoc(
        *(f"--plugin={scripts / plugin}" for plugin in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")),
        f"--descriptor_set_in={rules}", f"-I{protos}", f"-I{well_known}", f"-I{google_apis}",
        f"--python_out={out}", f"--grpc_python_out={out}",
        f"--mypy_out=quiet:{out}", f"--mypy_grpc_out=quiet,only_async:{out}",
        f"--descriptor_set_out={out / 'billing.binpb'}", "--include_imports", "--include_source_info",
        *sources, RULES,
    )  # fmt: skip
    rules.unlink()
    for package in {path.parent for path in out.rglob("*_pb2.py")}:
        (package / "py.typed").touch()


def _rules(well_known: Path, out: Path) -> bytes:
    """Return the descriptor set of protovalidate's rules with their imports."""
    base = out / "well_known.binpb"
    _protoc(f"-I{well_known}", f"--descriptor_set_out={base}", *WELL_KNOWN)
    rules = descriptor_pb2.FileDescriptorSet.FromString(base.read_bytes())
    base.unlink()
    rules.file.append(descriptor_pb2.FileDescriptorProto.FromString(validate_pb._DESC.proto.to_binary()))
    return rules.SerializeToString()


def _protoc(*arguments: str) -> None:
    if protoc.main(["protoc", *arguments]) != 0:
        sys.exit("protoc failed; see its message above")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
