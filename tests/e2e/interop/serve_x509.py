"""A Workload API of gRPC's own server and SPIFFE's own messages: serves what lies in a directory, and again when it changes."""

import concurrent.futures
import pathlib
import sys
import time

import grpc
from spiffe._proto import workload_pb2, workload_pb2_grpc

socket, directory = sys.argv[1], pathlib.Path(sys.argv[2])


class WorkloadApi(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    def FetchX509SVID(self, request, context):
        if ("workload.spiffe.io", "true") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no call of a workload")
        sent = None
        while context.is_active():
            # The name of the set that is to be served; its files are complete by then.
            current = (directory / "current").read_text()
            if current == "none":
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
            if current != sent:
                sent = current
                read = lambda name: (directory / f"{current}.{name}").read_bytes()
                svid = workload_pb2.X509SVID(
                    spiffe_id=read("id").decode(),
                    x509_svid=read("chain"),
                    x509_svid_key=read("key"),
                    bundle=read("roots"),
                )
                yield workload_pb2.X509SVIDResponse(svids=[svid])
            time.sleep(0.02)


server = grpc.server(concurrent.futures.ThreadPoolExecutor())
workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(WorkloadApi(), server)
server.add_insecure_port(f"unix://{socket}")
server.start()
server.wait_for_termination()
