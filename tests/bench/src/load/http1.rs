//! One HTTP/1.1 connection that is used again and again, and an application that answers on such connections.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Largest answer that is read.
const MOST: usize = 16 << 20;

/// A connection to a server.
pub(crate) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

/// What was answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// The connection ends with it.
    pub(crate) last: bool,
}

impl Connection {
    pub(crate) async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            received: Vec::with_capacity(8 << 10),
        })
    }

    /// Sends a request and reads its answer, which has a length.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> anyhow::Result<Answer> {
        self.stream.write_all(request).await?;
        loop {
            if let Some((answer, used)) = parse(&self.received)? {
                self.received.drain(..used);
                return Ok(answer);
            }
            if self.received.len() > MOST {
                bail!("an answer of more than {MOST} bytes");
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                bail!("the connection was closed in place of an answer");
            }
        }
    }
}

/// The answer at the beginning of what was received, and how many bytes it is; `None`: not all of it is here.
fn parse(received: &[u8]) -> anyhow::Result<Option<(Answer, usize)>> {
    let Some(end) = received.windows(4).position(|w| w == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&received[..end]).context("a head that is not text")?;
    let status = head.get(9..12).and_then(|s| s.parse().ok());
    let status = status.with_context(|| format!("no status: {head}"))?;
    let (mut length, mut last) = (None, false);
    for line in head.lines().skip(1) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok();
        } else if name.eq_ignore_ascii_case("connection") {
            last = value.trim().eq_ignore_ascii_case("close");
        }
    }
    let length: usize = length.with_context(|| format!("no Content-Length: {head}"))?;
    let all = end + 4 + length;
    Ok((received.len() >= all).then(|| {
        let body = received[end + 4..all].to_vec();
        (Answer { status, body, last }, all)
    }))
}

/// An application that answers every request with `ok`.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl App {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Ends with its connection, which ends with the sidecar.
                tokio::spawn(serve(stream));
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut received = Vec::new();
    loop {
        while let Some(end) = received.windows(4).position(|w| w == b"\r\n\r\n") {
            received.drain(..end + 4);
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
        match stream.read_buf(&mut received).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_follow_each_other_on_one_connection() {
        let app = App::start().await.unwrap();
        let mut connection = Connection::open(&app.address.to_string()).await.unwrap();
        for _ in 0..3 {
            let answer = connection.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let answer = answer.unwrap();
            assert_eq!(
                (answer.status, &*answer.body, answer.last),
                (200, &b"ok"[..], false)
            );
        }
    }

    #[test]
    fn an_answer_is_taken_only_whole() {
        let text = b"HTTP/1.1 503 X\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabcHTTP";
        for cut in 0..text.len() - 4 {
            assert!(parse(&text[..cut]).unwrap().is_none(), "{cut}");
        }
        let (answer, used) = parse(text).unwrap().unwrap();
        assert_eq!(
            (answer.status, answer.last, used),
            (503, true, text.len() - 4)
        );
        assert!(parse(b"HTTP/1.1 200 X\r\n\r\n").is_err());
    }
}
