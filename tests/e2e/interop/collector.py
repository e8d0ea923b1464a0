"""An OTLP collector made of the published messages: gRPC and HTTP, one JSON line per span on standard output.

The first line says where it listens. It ends with its standard input.
"""

import json
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.trace.v1 import (
    trace_service_pb2 as service,
    trace_service_pb2_grpc as service_grpc,
)
from opentelemetry.proto.trace.v1 import trace_pb2

lock = threading.Lock()


def plain(value):
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    return getattr(value, kind)


def attributes(pairs):
    names = [pair.key for pair in pairs]
    assert len(names) == len(set(names)), f"an attribute is there twice: {names}"
    return {pair.key: plain(pair.value) for pair in pairs}


def tell(request, transport, metadata):
    for of_resource in request.resource_spans:
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                assert len(span.trace_id) == 16 and len(span.span_id) == 8
                line = json.dumps(
                    {
                        "transport": transport,
                        "metadata": metadata,
                        "resource": attributes(of_resource.resource.attributes),
                        "schema": of_scope.schema_url or of_resource.schema_url,
                        "trace": span.trace_id.hex(),
                        "span": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "name": span.name,
                        "kind": trace_pb2.Span.SpanKind.Name(span.kind),
                        "start": span.start_time_unix_nano,
                        "end": span.end_time_unix_nano,
                        "status": trace_pb2.Status.StatusCode.Name(span.status.code),
                        "attributes": attributes(span.attributes),
                    }
                )
                with lock:
                    print(line, flush=True)


class Collector(service_grpc.TraceServiceServicer):
    def Export(self, request, context):
        metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        tell(request, "grpc", metadata)
        return service.ExportTraceServiceResponse()


class Http(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        right = (
            self.path == "/v1/traces"
            and self.headers["content-type"] == "application/x-protobuf"
        )
        if right:
            tell(service.ExportTraceServiceRequest.FromString(body), "http", dict(self.headers))
        self.send_response(200 if right else 400)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
service_grpc.add_TraceServiceServicer_to_server(Collector(), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
web = ThreadingHTTPServer(("127.0.0.1", 0), Http)
threading.Thread(target=web.serve_forever, daemon=True).start()
print(json.dumps({"grpc": port, "http": web.server_port}), flush=True)
sys.stdin.read()
