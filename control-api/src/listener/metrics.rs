//! The metrics port: a few questions, one answer each, over as much HTTP as that takes.

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

/// What a path answers.
pub struct Page {
    /// Media type.
    pub media_type: &'static str,
    /// Content.
    pub body: String,
}

/// Answers `GET <path>` with what `page` says of it, until `stop`.
pub async fn serve<F>(listener: TcpListener, page: F, stop: CancellationToken)
where
    F: Fn(&str) -> Option<Page> + Clone + Send + 'static,
{
    let mut scrapes = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = scrapes.join_next() => {}
            accepted = listener.accept(), if scrapes.len() < MAX_SCRAPES => match accepted {
                Ok((stream, _)) => {
                    let page = page.clone();
                    scrapes.spawn(async move {
                        // Whoever is slow or gone gets nothing, and nobody needs to know.
                        let _ = timeout(SCRAPE, answer(stream, page)).await;
                    });
                }
                Err(_) => sleep(Duration::from_millis(50)).await,
            },
        }
    }
}

async fn answer(mut stream: TcpStream, page: impl Fn(&str) -> Option<Page>) -> io::Result<()> {
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
    let plain = |body: &str| Page {
        media_type: "text/plain; charset=utf-8",
        body: body.to_owned(),
    };
    let found = std::str::from_utf8(path).ok().and_then(page);
    let (status, page) = match (method, found) {
        (b"GET", Some(page)) => ("200 OK", page),
        (b"GET" | b"HEAD", _) => ("404 Not Found", plain("there is nothing here\n")),
        _ => ("405 Method Not Allowed", plain("there is only GET\n")),
    };
    let Page { media_type, body } = page;
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {media_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}
