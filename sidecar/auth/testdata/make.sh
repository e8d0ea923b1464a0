#!/bin/sh
# Writes KIND.pem for the tests of svid: a leaf for spiffe://td/ns/a/sa/b and the root that signed it, valid from the day
# this is run for 100 years. Made by OpenSSL because rcgen neither makes weak keys nor encodes as OpenSSL does.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/ext" <<EXT
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = URI:spiffe://td/ns/a/sa/b
EXT
make() { # KIND DIGEST KEY-OPTIONS...
    kind=$1 digest=$2
    shift 2
    openssl genpkey "$@" -out "$work/root.key" 2>/dev/null
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/leaf.key"
    openssl req -x509 -new -key "$work/root.key" -"$digest" -days 36500 -subj /CN=root \
        -addext 'keyUsage = critical, keyCertSign' -out "$work/root.pem"
    openssl req -new -key "$work/leaf.key" -subj /CN=leaf -out "$work/leaf.csr"
    openssl x509 -req -in "$work/leaf.csr" -CA "$work/root.pem" -CAkey "$work/root.key" -"$digest" -days 36500 \
        -set_serial 0x1234 -extfile "$work/ext" -out "$work/leaf.pem" 2>/dev/null
    cat "$work/leaf.pem" "$work/root.pem" >"$kind.pem"
}
make rsa-2048 sha256 -algorithm RSA -pkeyopt rsa_keygen_bits:2048
make p-384 sha384 -algorithm EC -pkeyopt ec_paramgen_curve:P-384
make rsa-1024 sha256 -algorithm RSA -pkeyopt rsa_keygen_bits:1024
make rsa-2048-sha1 sha1 -algorithm RSA -pkeyopt rsa_keygen_bits:2048
make p-224 sha256 -algorithm EC -pkeyopt ec_paramgen_curve:P-224
make secp256k1 sha256 -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1
