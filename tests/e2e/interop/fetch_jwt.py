"""Fetches a JWT-SVID and the bundles with the SPIFFE library for Python, which verifies the one with the other, and has the
sidecar verify it as well."""

import json
import sys

from spiffe import JwtSvid, WorkloadApiClient

endpoint = f"unix://{sys.argv[1]}"

with WorkloadApiClient(endpoint) as client:
    svid = client.fetch_jwt_svid(audience={"orders"})
    again = client.fetch_jwt_svid(audience={"orders"})
    both = client.fetch_jwt_svid(audience={"payments", "orders"})
    bundles = client.fetch_jwt_bundles()
    bundle = bundles.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)

    def validated(token, audience):
        try:
            return str(client.validate_jwt_svid(token, audience).spiffe_id)
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    head, payload, signature = svid.token.split(".")
    first = "A" if signature[0] != "A" else "B"
    forged = f"{head}.{payload}.{first}{signature[1:]}"
    by_the_sidecar = {
        "good": validated(svid.token, "orders"),
        "other_audience": validated(svid.token, "payments"),
        "forged": validated(forged, "orders"),
    }

verified = JwtSvid.parse_and_validate(svid.token, bundle, {"orders"})
try:
    JwtSvid.parse_and_validate(svid.token, bundle, {"payments"})
    other = "accepted"
except Exception as error:
    other = type(error).__name__

print(
    json.dumps(
        {
            "spiffe_id": str(verified.spiffe_id),
            "audience": sorted(verified.audience),
            "both": sorted(both.audience),
            "same_token_again": svid.token == again.token,
            "other_audience": other,
            "by_the_sidecar": by_the_sidecar,
            "token": svid.token,
        }
    )
)
