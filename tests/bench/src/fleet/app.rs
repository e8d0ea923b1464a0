//! The application behind every sidecar: it sends opaque bytes back, and answers HTTP/1.1 requests without an end.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The head and the first message of an answer in the shape of a gRPC stream.
const BEGINNING: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";

/// Serves until it is dropped.
pub(super) struct App {
    pub(super) echo: SocketAddr,
    pub(super) streams: SocketAddr,
    _tasks: JoinSet<()>,
}

impl App {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let echo = TcpListener::bind("127.0.0.1:0").await?;
        let streams = TcpListener::bind("127.0.0.1:0").await?;
        let (echo_address, streams_address) = (echo.local_addr()?, streams.local_addr()?);
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(echo, |stream| Box::pin(send_back(stream))));
        tasks.spawn(serve(streams, |stream| Box::pin(answer(stream))));
        Ok(Self {
            echo: echo_address,
            streams: streams_address,
            _tasks: tasks,
        })
    }
}

type Served = std::pin::Pin<Box<dyn Future<Output = std::io::Result<()>> + Send>>;

async fn serve(listener: TcpListener, each: fn(TcpStream) -> Served) {
    // A connection that fails has ended, as one that is closed has.
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                open.spawn(each(stream));
            },
            Some(_) = open.join_next() => {}
        }
    }
}

async fn send_back(mut stream: TcpStream) -> std::io::Result<()> {
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await.map(drop)
}

/// Reads what comes, answers the first head, and waits for the client to go.
async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut answered = false;
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
        if !answered && head.windows(4).any(|w| w == b"\r\n\r\n") {
            stream.write_all(BEGINNING).await?;
            answered = true;
        }
    }
}
