//! Downloads a large body and counts its bytes.

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::wrk::Target;

/// GETs `path` once. Fails unless the answer is 200 with exactly `size` bytes.
pub(crate) async fn download(
    target: &Target,
    path: &str,
    headers: &str,
    size: u64,
) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(&target.address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\n{headers}Connection: close\r\n\r\n",
        target.host
    );
    stream.write_all(request.as_bytes()).await?;
    let mut buffer = vec![0; 256 << 10];
    let mut head = Vec::new();
    let mut received = loop {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            bail!("the answer ended before its head");
        }
        head.extend_from_slice(&buffer[..n]);
        if let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") {
            break (head.len() - end - 4) as u64;
        }
    };
    let status = head.split(|b| *b == b'\r').next().unwrap_or_default();
    if !status.starts_with(b"HTTP/1.1 200") {
        bail!("answered {:?}", String::from_utf8_lossy(status));
    }
    while received < size {
        let n = stream.read(&mut buffer).await.context("the body was cut")?;
        if n == 0 {
            bail!("{received} of {size} bytes came");
        }
        received += n as u64;
    }
    if received > size {
        bail!("{received} bytes came instead of {size}");
    }
    Ok(())
}
