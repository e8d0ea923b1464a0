//! HTTP/1.1 by hand, so that a test can say what no library would.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status, 0 if the connection ended without an answer.
    pub status: u16,
    /// Status line and fields.
    pub head: String,
    /// Body without its framing, followed by the trailer section if there is one.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Value of a field in a head; none if it is missing, and a panic if it is there more than once.
#[must_use]
pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut values = head.lines().filter_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then(|| value.trim())
    });
    let first = values.next();
    assert!(values.next().is_none(), "{name} is there twice: {head}");
    first
}

/// A connection that gives up instead of hanging.
#[must_use]
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// Whether bytes come back through a tunnel to a server that echoes.
pub fn echoes(tunnel: &mut TcpStream) -> bool {
    let mut echo = [0; 5];
    tunnel.write_all(b"hello").is_ok() && tunnel.read_exact(&mut echo).is_ok()
}

/// Reads one head.
#[must_use]
pub fn read_head(stream: &mut impl BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).expect("bytes") == 0 {
            break;
        }
    }
    head
}

/// Sends `bytes` as they are and reads the answer until the connection ends.
#[must_use]
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = connect(address);
    // A refusal may come before the last byte is taken.
    stream.write_all(bytes).ok();
    let mut stream = BufReader::new(stream);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    parse(&answer)
}

/// GET, with more header lines (each with its line end).
#[must_use]
pub fn get(address: SocketAddr, host: &str, path: &str, lines: &str) -> Answer {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{lines}\r\n");
    exchange(address, request.as_bytes())
}

/// Has the sidecar whose admin listener is at `admin` get another certificate.
pub fn rotate(admin: SocketAddr) {
    let request = b"POST /certificates/rotate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let answer = exchange(admin, request);
    assert_eq!(answer.status, 202, "{}", answer.head);
}

fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
    let (head, mut rest) = end.map_or((bytes, &[][..]), |at| bytes.split_at(at + 4));
    let head = String::from_utf8_lossy(head).into_owned();
    let mut body = Vec::new();
    if field(&head, "transfer-encoding") == Some("chunked") {
        while let Some(at) = rest.windows(2).position(|w| w == b"\r\n") {
            let size = String::from_utf8_lossy(&rest[..at]);
            let size = usize::from_str_radix(&size, 16).expect("a chunk's size");
            rest = &rest[at + 2..];
            if size == 0 {
                body.extend_from_slice(rest);
                break;
            }
            body.extend_from_slice(&rest[..size]);
            rest = &rest[size + 2..];
        }
    } else {
        body.extend_from_slice(rest);
    }
    Answer {
        status: head
            .get(9..12)
            .and_then(|s| s.parse().ok())
            .unwrap_or_default(),
        head,
        body,
    }
}
