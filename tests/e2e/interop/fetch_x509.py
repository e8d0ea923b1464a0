"""Fetches an identity with the SPIFFE library for Python and says what it got; writes it as PEM for other programs."""

import json
import pathlib
import sys

from cryptography.hazmat.primitives import serialization
from spiffe import WorkloadApiClient, X509Source

socket, directory = sys.argv[1], pathlib.Path(sys.argv[2])
endpoint = f"unix://{socket}"


def pem(certificates):
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


with WorkloadApiClient(endpoint) as client:
    svid = client.fetch_x509_svid()
    bundles = client.fetch_x509_bundles()
    context = client.fetch_x509_context()
    domain = svid.spiffe_id.trust_domain
    bundle = bundles.get_bundle_for_trust_domain(domain)

# The library's own cache, which follows the stream.
with X509Source(WorkloadApiClient(endpoint)) as source:
    cached = source.svid

(directory / "chain.pem").write_bytes(pem(svid.cert_chain))
(directory / "roots.pem").write_bytes(pem(bundle.x509_authorities))
key = svid.private_key.private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)
(directory / "key.pem").write_bytes(key)

print(
    json.dumps(
        {
            "spiffe_id": str(svid.spiffe_id),
            "chain": len(svid.cert_chain),
            "roots": len(bundle.x509_authorities),
            "same_in_context": str(context.default_svid.spiffe_id),
            "same_in_source": str(cached.spiffe_id),
            "serial": format(svid.leaf.serial_number, "x"),
        }
    )
)
