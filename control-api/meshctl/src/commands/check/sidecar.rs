//! A sidecar's own word on whether it is ready: `GET /readyz` on its admin listener.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::judge::Finding;

/// How long a sidecar may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How much of an answer is read.
const MOST: u64 = 64 * 1024;

/// Asks one sidecar.
pub(super) async fn ready(address: SocketAddr) -> Finding {
    let name = format!("sidecar {address}");
    let answer = tokio::time::timeout(TIMEOUT, ask(address))
        .await
        .unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "no answer within 5 s",
            ))
        });
    Finding::sidecar(&name, judge(address, answer))
}

fn judge(
    address: SocketAddr,
    answer: io::Result<(u16, String)>,
) -> Result<String, (String, String)> {
    match answer {
        Ok((200, _)) => Ok("ready".to_owned()),
        Ok((503, body)) => Err((
            format!("not ready: {}", reasons(&body)),
            format!("curl -s http://{address}/readyz"),
        )),
        Ok((code, _)) => Err((
            format!("what listens there answers {code}: no sidecar's admin listener"),
            format!("curl -si http://{address}/version"),
        )),
        Err(error) => Err((
            format!(
                "does not answer ({error}): it is not running, or its admin listener is elsewhere (`--admin`)"
            ),
            "sidecar run --help".to_owned(),
        )),
    }
}

/// The reasons of a readiness document, or its text.
fn reasons(body: &str) -> String {
    let Ok(value) = serde_json::from_str::<serde_json::Value>(body) else {
        return body.trim().to_owned();
    };
    match value.get("reasons").and_then(serde_json::Value::as_array) {
        Some(reasons) => reasons
            .iter()
            .map(|r| r.as_str().map_or_else(|| r.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join("; "),
        None => value.to_string(),
    }
}

async fn ask(address: SocketAddr) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    let code = text
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it speaks no HTTP"))?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((code, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_put_into_words() {
        let address: SocketAddr = "127.0.0.1:15000".parse().expect("an address");
        assert!(judge(address, Ok((200, String::new()))).is_ok());
        let body = r#"{"ready":false,"reasons":["no certificate yet","not capturing"]}"#.to_owned();
        let (found, _) = judge(address, Ok((503, body))).expect_err("not ready");
        assert_eq!(found, "not ready: no certificate yet; not capturing");
        assert!(judge(address, Ok((404, String::new()))).is_err());
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert!(
            judge(address, Err(refused))
                .expect_err("down")
                .0
                .contains("not running")
        );
    }
}
