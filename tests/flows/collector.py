"""An OTLP collector that writes spans to a file: `python -m tests.flows.collector PORT FILE`.

FILE gets a JSON line for each span.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Writes each received span to the file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        with self._file.open("a", encoding="utf-8") as out:
            for resource in request.resource_spans:
                service = {a.key: a.value.string_value for a in resource.resource.attributes}.get("service.name", "")
                for span in (span for scope in resource.scope_spans for span in scope.spans):
                    line = {
                        "service": service, "name": span.name, "kind": span.kind, "trace_id": span.trace_id.hex(),
                        "span_id": span.span_id.hex(), "parent_id": span.parent_span_id.hex(),
                        "content": MessageToDict(span),
                    }  # fmt: skip
                    out.write(json.dumps(line, ensure_ascii=False) + "\n")
        return trace_service_pb2.ExportTraceServiceResponse()


def main() -> None:
    """Serve until killed."""
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    collector = Collector(Path(sys.argv[2]))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
