//! Asks an arm once and compares the answer with the application's: nothing else is worth measuring.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kid::Kid;
use crate::wrk::Target;

const START: Duration = Duration::from_secs(15);
const EXCHANGE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);
/// Most bytes of an answer.
const MOST: u64 = 64 << 10;

/// Waits until an arm answers with `body`; what it consists of must keep running meanwhile.
pub(crate) async fn wait_for(
    target: &Target,
    body: &str,
    kids: &mut [&mut Kid],
) -> anyhow::Result<()> {
    let deadline = Instant::now() + START;
    loop {
        for kid in kids.iter_mut() {
            kid.check()?;
        }
        let answer = tokio::time::timeout(EXCHANGE, ask(target, ""))
            .await
            .context("no whole answer in time")
            .and_then(|answer| judge(&answer?, body));
        match answer {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                let words: Vec<String> = kids.iter().map(|k| k.last_words()).collect();
                let context = format!(
                    "{} does not answer with the application's body; {}",
                    target.address,
                    words.join("; ")
                );
                return Err(error.context(context));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Waits until an arm whose processes somebody else looks after answers with `body`; `headers` go with the request, each
/// line with its end.
pub(crate) async fn wait_for_answer(
    target: &Target,
    headers: &str,
    body: &str,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + START;
    loop {
        let answer = tokio::time::timeout(EXCHANGE, ask(target, headers))
            .await
            .context("no whole answer in time")
            .and_then(|answer| judge(&answer?, body));
        match answer {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => tokio::time::sleep(PAUSE).await,
            Ok(()) => return Ok(()),
        }
    }
}

async fn ask(target: &Target, headers: &str) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(&target.address).await?;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\n{headers}Connection: close\r\n\r\n",
        target.host
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn judge(answer: &[u8], body: &str) -> anyhow::Result<()> {
    let text = String::from_utf8_lossy(answer);
    let Some((head, got)) = text.split_once("\r\n\r\n") else {
        bail!("not an HTTP answer: {text:?}");
    };
    let status = head.lines().next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200") {
        bail!("answered {status:?}: {got:?}");
    }
    if got != body {
        bail!("answered another body, of {} bytes", got.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_applications_own_body_passes() {
        let body = "a body";
        for (answer, good) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\na body", true),
            ("HTTP/1.1 200 \r\n\r\na body", true),
            ("HTTP/1.1 200 OK\r\n\r\nanother body", false),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\na body", false),
            ("", false),
        ] {
            assert_eq!(judge(answer.as_bytes(), body).is_ok(), good, "{answer:?}");
        }
    }
}
