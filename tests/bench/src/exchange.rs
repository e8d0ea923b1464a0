//! One request on a connection of its own, written byte by byte, and its answer.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);
/// Most bytes of an answer.
const MOST: u64 = 1 << 20;

/// An answer.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) status: u16,
    /// Status line and fields, then the body as it was framed.
    text: String,
    body_at: usize,
}

impl Exchange {
    /// GET `path` of `host` with more header lines, each with its line end.
    pub(crate) async fn get(
        address: SocketAddr,
        host: &str,
        path: &str,
        lines: &[u8],
    ) -> anyhow::Result<Self> {
        let mut request =
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n").into_bytes();
        request.extend_from_slice(lines);
        request.extend_from_slice(b"\r\n");
        let exchange = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(&request).await?;
            let mut answer = Vec::new();
            stream.take(MOST).read_to_end(&mut answer).await?;
            anyhow::Ok(answer)
        };
        let answer = timeout(PATIENCE, exchange)
            .await
            .with_context(|| format!("no answer to {path} within {PATIENCE:?}"))??;
        Self::parse(&answer)
    }

    fn parse(answer: &[u8]) -> anyhow::Result<Self> {
        let text = String::from_utf8_lossy(answer).into_owned();
        let Some(end) = text.find("\r\n\r\n") else {
            bail!("not an answer of HTTP/1.1: {text:?}");
        };
        let status = text.get(9..12).and_then(|s| s.parse().ok());
        Ok(Self {
            status: status.with_context(|| format!("no status: {text:?}"))?,
            body_at: end + 4,
            text,
        })
    }

    /// The value of the only field of this name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.text[..self.body_at].lines().filter_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        });
        let first = values.next();
        first.filter(|_| values.next().is_none())
    }

    /// The body of an answer whose length was told.
    pub(crate) fn body(&self) -> &str {
        &self.text[self.body_at..]
    }

    /// All of it.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}
