//! An application that answers each request with the header fields that reached it, as a JSON object.

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Most header lines of a request.
const MOST_LINES: usize = 200;

/// Answers every request with the header fields that tests look at.
pub(crate) async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        // It ends with its connection.
        tokio::spawn(async move { drop(answer(stream).await) });
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    loop {
        let mut told = json!({});
        for _ in 0..MOST_LINES {
            let Some(line) = lines.next_line().await? else {
                return Ok(());
            };
            if line.is_empty() {
                break;
            }
            match line.split_once(": ") {
                Some((name, value)) => told[name] = value.into(),
                None => told["request"] = line.into(),
            }
        }
        let body = told.to_string();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        write.write_all(head.as_bytes()).await?;
        write.write_all(body.as_bytes()).await?;
    }
}
