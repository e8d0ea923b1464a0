//! Early data (RFC 8446 §4.2.10) can be replayed: no session of a sidecar lets a client send any, and from one that sends some
//! all the same nothing of it reaches the application. The client is OpenSSL.

use std::io::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mesh_e2e::Mesh;
use mesh_e2e::app::App;
use mesh_e2e::openssl::{s_client, text};
use mesh_e2e::tls::{credential, mesh_authority};
use time::Duration;

const WEB: &str = "spiffe://demo.postern.internal/ns/demo/sa/web";

/// A request for `path` and the end of what the client says, in HTTP/1.1.
fn http1(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n").into_bytes()
}

/// The same in HTTP/2 as sidecars speak it (RFC 9113, RFC 7541 without Huffman codes), with GOAWAY behind it.
fn http2(path: &str) -> Vec<u8> {
    let text = |value: &str| {
        [
            &[u8::try_from(value.len()).expect("short")],
            value.as_bytes(),
        ]
        .concat()
    };
    let block = [
        vec![0x82, 0x86, 0x04],
        text(path),
        vec![0x01],
        text("orders"),
        vec![0x00],
        text("postern-port"),
        text("8080"),
    ]
    .concat();
    let length = u8::try_from(block.len()).expect("short");
    [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..],
        &[0, 0, length, 1, 0x05, 0, 0, 0, 1],
        &block,
        b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0",
    ]
    .concat()
}

/// The first element of DER text, and what follows it.
fn split(der: &[u8]) -> (&[u8], &[u8]) {
    let (size, length) = match der[1] {
        0x82 => (4, usize::from(u16::from_be_bytes([der[2], der[3]]))),
        0x81 => (3, usize::from(der[2])),
        short => (2, usize::from(short)),
    };
    der.split_at(size + length)
}

/// Writes into the session that OpenSSL keeps in `file` that early data may be sent with it.
fn allow_early_data(file: &Path) {
    let text = std::fs::read_to_string(file).expect("a session");
    let lines = text.lines().filter(|line| !line.starts_with("-----"));
    let der = STANDARD.decode(lines.collect::<String>()).expect("base64");
    // SSL_SESSION is a SEQUENCE of more than 255 bytes; max_early_data is its optional element [15].
    const MAX_EARLY_DATA: u8 = 0xaf;
    let (mut before, mut rest) = (Vec::new(), &der[4..]);
    while rest.first().is_some_and(|tag| *tag < MAX_EARLY_DATA) {
        let (element, after) = split(rest);
        before.extend_from_slice(element);
        rest = after;
    }
    assert_ne!(
        rest.first(),
        Some(&MAX_EARLY_DATA),
        "the server allows some"
    );
    let body = [&before, &[MAX_EARLY_DATA, 4, 2, 2, 0x40, 0][..], rest].concat();
    let length = u16::try_from(body.len()).expect("short").to_be_bytes();
    let text = STANDARD.encode([&[0x30, 0x82], &length[..], &body].concat());
    let mut pem = "-----BEGIN SSL SESSION PARAMETERS-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        pem += str::from_utf8(line).expect("ASCII");
        pem += "\n";
    }
    pem += "-----END SSL SESSION PARAMETERS-----\n";
    std::fs::write(file, pem).expect("written");
}

#[test]
fn early_data_reaches_no_application() {
    let app = App::start(|arrived| {
        let mut stream = arrived.stream.into_inner();
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
        stream.write_all(answer).ok();
    });
    let mesh = Mesh::with_orders(&app);
    let scratch = tempfile::tempdir().expect("a directory");
    let file = |name: &str| {
        scratch
            .path()
            .join(name)
            .to_str()
            .expect("UTF-8")
            .to_owned()
    };
    let web = credential(
        &mesh_authority(&mesh.directory()),
        &[WEB],
        -Duration::hours(1),
    );
    let [certificate, key, session, early] =
        ["web.der", "web.key", "session.pem", "early"].map(file);
    std::fs::write(&certificate, web.certificate()).expect("written");
    std::fs::write(&key, web.key()).expect("written");
    type Request = fn(&str) -> Vec<u8>;
    let cases: [(&str, &str, Request); 2] = [("mesh", "h2", http2), ("inbound", "http/1.1", http1)];
    for (listener, alpn, request) in cases {
        let port = mesh.address("orders", listener);
        let call = |path: &str, options: &[&str]| {
            let identity = [
                "-certform",
                "DER",
                "-keyform",
                "DER",
                "-cert",
                &certificate,
                "-key",
                &key,
                "-alpn",
                alpn,
            ];
            text(&s_client(
                port,
                &[&identity, options].concat(),
                &request(path),
            ))
        };
        std::fs::write(&early, request("/early")).expect("written");
        let arrived = || {
            app.heads
                .try_iter()
                .map(|head| head.split(' ').nth(1).unwrap_or_default().to_owned())
                .collect::<Vec<_>>()
        };

        let said = call("/first", &["-sess_out", &session]);
        assert!(said.contains("New, TLSv1.3"), "{listener}: {said}");
        assert_eq!(arrived(), ["/first"], "{listener}: {said}");

        // A client that keeps to what its session says sends none, and is resumed.
        let said = call("/second", &["-sess_in", &session, "-early_data", &early]);
        for part in ["Reused, TLSv1.3", "Early data was not sent"] {
            assert!(said.contains(part), "{listener}: {part} is missing: {said}");
        }
        assert_eq!(arrived(), ["/second"], "{listener}: {said}");

        // Of one that does not, the early data is skipped: it is resumed with what it says after the handshake.
        allow_early_data(Path::new(&session));
        let said = call("/third", &["-sess_in", &session, "-early_data", &early]);
        for part in ["Reused, TLSv1.3", "Early data was rejected"] {
            assert!(said.contains(part), "{listener}: {part} is missing: {said}");
        }
        assert_eq!(arrived(), ["/third"], "{listener}: {said}");
    }
}
