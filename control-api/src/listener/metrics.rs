//! The metrics port: one question, one answer, over as much HTTP as that takes.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long a scrape may take.
const SCRAPE: Duration = Duration::from_secs(5);
/// Scrapes at the same time.
const MAX_SCRAPES: usize = 32;
/// Largest request head.
const MAX_HEAD: usize = 8 << 10;

/// Answers `GET /metrics` with what `text` says, until `stop`.
pub async fn serve<F>(listener: TcpListener, text: F, stop: CancellationToken)
where
    F: Fn() -> String + Clone + Send + 'static,
{
    let mut scrapes = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = scrapes.join_next() => {}
            accepted = listener.accept(), if scrapes.len() < MAX_SCRAPES => match accepted {
                Ok((stream, _)) => {
                    let text = text.clone();
                    scrapes.spawn(async move {
                        // Whoever is slow or gone gets nothing, and nobody needs to know.
                        let _ = timeout(SCRAPE, answer(stream, text)).await;
                    });
                }
                Err(_) => sleep(Duration::from_millis(50)).await,
            },
        }
    }
}

async fn answer(mut stream: TcpStream, text: impl Fn() -> String) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if head.len() > MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let mut words = line.split(|b| *b == b' ');
    let method = words.next().unwrap_or_default();
    let path = words
        .next()
        .unwrap_or_default()
        .split(|b| *b == b'?')
        .next()
        .unwrap_or_default();
    let (status, body) = match (method, path) {
        (b"GET", b"/metrics") => ("200 OK", text()),
        (b"GET" | b"HEAD", _) => ("404 Not Found", "there is only /metrics\n".to_owned()),
        _ => (
            "405 Method Not Allowed",
            "there is only GET /metrics\n".to_owned(),
        ),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}
